//! What can go wrong when a peer is asked something.

use std::io;
use std::time::Duration;

use hyper::StatusCode;
use kvd_raftpb::peer_url::PeerUrl;

/// Why [`crate::fetch_membership`] brought no member list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The list of URLs to ask is empty, or one of them is none.
    #[error(transparent)]
    Url(#[from] kvd_raftpb::peer_url::PeerUrlError),
    /// There is nobody to ask.
    #[error("no peer URL to ask for the member list")]
    NoUrls,
    /// The cluster removed this member; no retry can help.
    #[error("{url} says: {reason}")]
    Removed {
        /// Who said so.
        url: PeerUrl,
        /// In which words.
        reason: String,
    },
    /// The cluster does not know this member (yet): it must be added first. A retry can help.
    #[error("{url} says: {reason}")]
    NotMember {
        /// Who said so.
        url: PeerUrl,
        /// In which words.
        reason: String,
    },
    /// Nobody gave a usable answer in time. A retry can help.
    #[error("no peer gave the member list within {waited:?}; the last attempt: {last}")]
    Unavailable {
        /// The deadline that passed.
        waited: Duration,
        /// What the last attempt ended with.
        last: String,
    },
}

/// A dial that brought no answer, or not the wanted one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("cannot connect to {url}: {cause}")]
    Connect {
        url: PeerUrl,
        #[source]
        cause: io::Error,
    },
    #[error("{url} did not {what} within {limit:?}")]
    Timeout { url: PeerUrl, what: &'static str, limit: Duration },
    #[error("exchange with {url} failed: {cause}")]
    Http {
        url: PeerUrl,
        #[source]
        cause: hyper::Error,
    },
    #[error("{url} answered {status}: {reason}")]
    Refused { url: PeerUrl, status: StatusCode, reason: String },
    #[error("{url} does not answer as member {id} of this cluster")]
    Stranger { url: PeerUrl, id: u64 },
}

impl DialError {
    /// Whether another URL of the peer may do better. A peer that answers for itself is where it should be.
    pub(crate) fn blames_url(&self) -> bool {
        match self {
            DialError::Refused { status, .. } => {
                !matches!(*status, StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::SERVICE_UNAVAILABLE)
            }
            _ => true,
        }
    }

    /// The peer answered, for itself, that this member was removed.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, DialError::Refused { status: StatusCode::GONE, .. })
    }
}
