//! The question of a joiner: who are the members?

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode};
use kvd_raftpb::node::Membership;
use kvd_raftpb::peer_url::{PeerUrl, parse_peer_url};
use prost::Message as _;
use tokio::time::{Instant, sleep, timeout};

use crate::config::Config;
use crate::dial::Exchange;
use crate::error::{DialError, Error};
use crate::handler::MEMBERS;
use crate::identity;

/// Longest member list that is read, in bytes. A thousand members with a few URLs each are a fifth of it.
const MAX_BYTES: usize = 1 << 20;

/// How long one peer may take, so that a dead one does not use up the time for all.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Asks the peers at `urls` for the member list, as member `own_id`, until one of them gives it.
///
/// The peers are asked in turn, again and again (with 100 ms between the rounds, doubling up to 1 s), until `limit` has
/// passed. So a member that is started a little before it is added finds its way in.
///
/// # Errors
/// [`Error::Removed`] at once, when a peer says that `own_id` was removed. [`Error::NotMember`] at the deadline, if the
/// last round found a peer that does not know `own_id` yet: worth another call. [`Error::Unavailable`] at the deadline
/// otherwise. [`Error::Url`] and [`Error::NoUrls`] before anybody is asked.
pub async fn fetch_membership(urls: &[String], own_id: u64, limit: Duration) -> Result<Membership, Error> {
    fetch(None, urls, own_id, limit).await
}

/// As [`fetch_membership`], for a member that knows its cluster: what a member of another one says, "you were removed"
/// above all, does not count.
///
/// # Errors
/// As [`fetch_membership`].
pub async fn fetch_membership_of(
    cluster_id: u64,
    urls: &[String],
    own_id: u64,
    limit: Duration,
) -> Result<Membership, Error> {
    fetch(Some(cluster_id), urls, own_id, limit).await
}

async fn fetch(
    cluster: Option<u64>,
    urls: &[String],
    own_id: u64,
    limit: Duration,
) -> Result<Membership, Error> {
    let urls = urls.iter().map(|url| parse_peer_url(url)).collect::<Result<Vec<_>, _>>()?;
    if urls.is_empty() {
        return Err(Error::NoUrls);
    }
    let config = Config::default();
    let end = Instant::now() + limit;
    let mut wait = config.redial_min;
    loop {
        let mut failure = None;
        for url in &urls {
            let left = end.saturating_duration_since(Instant::now()).min(ATTEMPT);
            let late = DialError::Timeout { url: url.clone(), what: "answer", limit: left };
            match timeout(left, ask(&config, url, own_id, cluster)).await.unwrap_or(Err(Failure::Dial(late)))
            {
                Ok(membership) => return Ok(membership),
                Err(Failure::Dial(DialError::Refused { url, status: StatusCode::GONE, reason })) => {
                    return Err(Error::Removed { url, reason });
                }
                Err(Failure::Dial(DialError::Refused { url, status: StatusCode::NOT_FOUND, reason })) => {
                    failure = Some(Error::NotMember { url, reason });
                }
                // "Not a member yet" says more than a peer that is down.
                Err(error) => {
                    failure.get_or_insert(Error::Unavailable { waited: limit, last: error.to_string() });
                }
            }
        }
        let Some(failure) = failure else { continue };
        let now = Instant::now();
        if now + wait >= end {
            return Err(failure);
        }
        tracing::debug!(error = %failure, "no member list yet");
        sleep(wait).await;
        wait = (wait * 2).min(config.redial_max);
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{0} answered with something other than a member list")]
    Answer(PeerUrl),
    #[error("{url} answered for cluster {cluster:016x}, which is another one")]
    OtherCluster { url: PeerUrl, cluster: u64 },
}

async fn ask(
    config: &Config,
    url: &PeerUrl,
    own_id: u64,
    wanted: Option<u64>,
) -> Result<Membership, Failure> {
    let mut exchange = Exchange::open(config, url).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = identity::path(MEMBERS.to_owned());
    identity::write(request.headers_mut(), own_id, None, None);
    let response = exchange.ask(request).await?;
    let Some((_, cluster)) = identity::answerer(response.headers()) else {
        return Err(Failure::Answer(url.clone()));
    };
    if wanted.is_some_and(|wanted| wanted != cluster) {
        return Err(Failure::OtherCluster { url: url.clone(), cluster });
    }
    if !response.status().is_success() {
        return Err(exchange.refusal(config, response).await.into());
    }
    let bad = || Failure::Answer(url.clone());
    let body =
        exchange.drive(Limited::new(response.into_body(), MAX_BYTES).collect()).await.map_err(|_| bad())?;
    let membership = Membership::decode(body.to_bytes()).map_err(|_| bad())?;
    if membership.cluster_id != cluster || membership.members.is_empty() {
        return Err(bad());
    }
    Ok(membership)
}
