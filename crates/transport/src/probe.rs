//! Probes: is a peer there, how far away, and what does its clock say?
//!
//! ```text
//! GET /raft/probing          200, Kvd-Time-Us: the answerer's time in microseconds since 1970
//! ```
//!
//! Every [`crate::Config::probe_interval`] each peer is asked, on a new connection, so that the figure does not depend on
//! what waits in a stream. The round trip is from the request to the head of the answer, without the connect. The clock's
//! difference supposes that both ways took half of it, so it is off by half a round trip at most.
//!
//! Nothing depends on the answer: raft uses no clock but its ticks. A large difference is said in the log, because what
//! people compare (logs, certificates) depends on it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use tokio::time::{Instant, MissedTickBehavior};

use crate::dial::Exchange;
use crate::error::DialError;
use crate::handler::PROBING;
use crate::identity;
use crate::peer::Peer;
use crate::shared::{Shared, since_1970};

/// A difference of clocks, in seconds, that is worth a line in the log.
const NOTABLE_SECONDS: f64 = 1.0;

/// What the last probe of a peer found.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Probed {
    /// `None`: there was no answer, or no probe yet.
    pub(crate) round_trip: Option<Duration>,
    /// By how many seconds the peer's clock is ahead. Kept when a probe has no answer.
    pub(crate) clock_ahead: Option<f64>,
}

/// Runs until the peer is gone, or says that this member is.
pub(crate) async fn run(shared: Arc<Shared>, peer: Arc<Peer>) {
    tokio::select! {
        () = peer.cancel.cancelled() => {}
        () = peer.gone.cancelled() => {}
        () = probe_again_and_again(&shared, &peer) => {}
    }
}

async fn probe_again_and_again(shared: &Shared, peer: &Peer) {
    let interval = shared.config.probe_interval;
    let mut next = tokio::time::interval_at(Instant::now() + interval, interval);
    next.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut notable = false;
    loop {
        next.tick().await;
        let result = probe(shared, peer).await;
        peer.metrics.probed(result.as_ref().ok());
        match result {
            Ok(probed) => {
                peer.set_probed(probed);
                let ahead = probed.clock_ahead.unwrap_or_default();
                let was = std::mem::replace(&mut notable, ahead.abs() >= NOTABLE_SECONDS);
                if notable && !was {
                    tracing::warn!(
                        peer = peer.id,
                        ahead_seconds = ahead,
                        "the peer's clock differs from ours"
                    );
                }
            }
            Err(error) => {
                tracing::debug!(peer = peer.id, %error, "no answer to a probe");
                peer.set_probed(Probed { round_trip: None, ..peer.probed() });
                if let ProbeError::Dial(error) = &error
                    && error.is_gone()
                {
                    shared.was_removed(peer, &error.to_string());
                    return;
                }
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("the peer has no URL")]
    NoUrl,
    #[error(transparent)]
    Dial(#[from] DialError),
}

async fn probe(shared: &Shared, peer: &Peer) -> Result<Probed, ProbeError> {
    let config = &shared.config;
    let url = peer.url().ok_or(ProbeError::NoUrl)?;
    let mut exchange = Exchange::open(config, &url).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = identity::path(PROBING.to_owned());
    identity::write(request.headers_mut(), config.member_id, Some(config.cluster_id), Some(peer.id));
    let (start, sent) = (Instant::now(), since_1970());
    let response = exchange.ask_promptly(config, request).await?;
    let round_trip = start.elapsed();
    let theirs = identity::number(response.headers(), &identity::TIME, 10).ok();
    exchange.accept(config, peer.id, response).await.map(drop)?;
    let clock_ahead = theirs.map(|theirs| {
        let ours = sent + round_trip / 2;
        Duration::from_micros(theirs).as_secs_f64() - ours.as_secs_f64()
    });
    Ok(Probed { round_trip: Some(round_trip), clock_ahead })
}
