//! A peer's URL: from the command line, a request, a member list.

use kvd_raftpb::peer_url::{PeerUrl, parse_peer_url};

pub(crate) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(url) = parse_peer_url(text) else { return };
    let written = url.to_string();
    assert_eq!(written.parse::<PeerUrl>().as_ref(), Ok(&url), "the one form of a URL is read as written");
    assert!(written.is_ascii() && !written.contains(char::is_whitespace), "it goes into a header");
    assert!(url.authority().contains(url.host()));
}
