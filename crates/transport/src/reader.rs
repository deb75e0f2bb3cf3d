//! Reads one stream from one peer: dials, delivers, dials again.
//!
//! A member dials the streams that it reads. So whoever restarts fetches its own streams, and a peer that cannot be
//! reached costs its own side nothing but the tries. Only one answer ends the dialling: 410, given by the peer itself.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::Incoming;
use kvd_raftpb::peer_url::PeerUrl;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::{Instant, sleep};

use crate::codec::{Decoder, Frame, TooLong};
use crate::dial::Exchange;
use crate::error::DialError;
use crate::handler::STREAM;
use crate::identity;
use crate::inspect;
use crate::metrics::{FrameFault, Path};
use crate::order::Place;
use crate::outbox::Class;
use crate::peer::Peer;
use crate::shared::Shared;

/// Runs until the peer is gone, or says that this member is.
pub(crate) async fn run(shared: Arc<Shared>, peer: Arc<Peer>, class: Class) {
    peer.cancel.run_until_cancelled(read_again_and_again(&shared, &peer, class)).await;
}

async fn read_again_and_again(shared: &Shared, peer: &Peer, class: Class) {
    let config = &shared.config;
    let mut wait = config.redial_min;
    let mut failing = false;
    loop {
        // Armed before the dial, so that a kick during the dial counts.
        let mut kicked = std::pin::pin!(peer.kick.notified());
        kicked.as_mut().enable();
        let Some(url) = peer.url() else {
            kicked.await;
            continue;
        };
        match dial(shared, peer, class, &url).await {
            Ok((exchange, body, place)) => {
                wait = config.redial_min;
                failing = false;
                tracing::info!(peer = peer.id, stream = class.name(), %url, "reading from peer");
                let _active = (class == Class::Message).then(|| Active::new(&peer.metrics.active));
                let inbound = peer.inbound(class);
                let end = match place.is_none_or(|place| inbound.begin_stream(place)) {
                    true => read(shared, peer, class, exchange, body, place).await,
                    false => End::Overtaken,
                };
                tracing::info!(peer = peer.id, stream = class.name(), %url, %end, "stream ended");
            }
            Err(error) if error.is_gone() => {
                shared.was_removed(peer.id, &error.to_string());
                return;
            }
            Err(error) => {
                peer.metrics.dial_failures.inc();
                if error.blames_url() {
                    peer.unreachable(&url);
                }
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(peer = peer.id, stream = class.name(), %error, "no stream; trying on");
                } else {
                    tracing::debug!(peer = peer.id, stream = class.name(), %error, "no stream");
                }
            }
        }
        tokio::select! {
            () = sleep(wait) => wait = (wait * 2).min(config.redial_max),
            () = kicked => {}
        }
    }
}

async fn dial(
    shared: &Shared,
    peer: &Peer,
    class: Class,
    url: &PeerUrl,
) -> Result<(Exchange<Empty<Bytes>>, Incoming, Option<Place>), DialError> {
    let config = &shared.config;
    let own = config.member_id;
    let mut exchange = Exchange::open(config, url).await?;
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = identity::path(format!("{STREAM}{}/{own}", class.name()));
    identity::write(request.headers_mut(), own, Some(config.cluster_id), Some(peer.id));
    let response = exchange.ask_promptly(config, request).await?;
    // A peer that posts nothing need not say.
    let place = identity::place(response.headers()).ok();
    let body = exchange.accept(config, peer.id, response).await?;
    Ok((exchange, body, place))
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the peer ended it")]
    Ended,
    #[error("the peer has given it up, and posts")]
    Overtaken,
    #[error("nothing came for too long")]
    Silent,
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

async fn read(
    shared: &Shared,
    peer: &Peer,
    class: Class,
    mut exchange: Exchange<Empty<Bytes>>,
    body: Incoming,
    place: Option<Place>,
) -> End {
    let result = async {
        let limit = shared.config.stream_timeout;
        let mut silence = std::pin::pin!(sleep(limit));
        let mut decoder = Decoder::new(shared.config.max_frame_bytes);
        let mut body = body;
        loop {
            let part = tokio::select! {
                biased;
                part = exchange.drive(body.frame()) => part.ok_or(End::Ended)??,
                () = silence.as_mut() => return Err(End::Silent),
            };
            let Ok(mut chunk) = part.into_data() else { continue };
            silence.as_mut().reset(Instant::now() + limit);
            peer.metrics.received_bytes.inc_by(chunk.len() as u64);
            let mut deliver = || deliver_all(shared, peer, class, &mut decoder, &mut chunk);
            match place {
                Some(place) => peer.inbound(class).in_stream(place, deliver).ok_or(End::Overtaken)??,
                None => deliver()?,
            }
        }
    };
    let result: Result<std::convert::Infallible, End> = result.await;
    match result {
        Ok(never) => match never {},
        Err(end) => {
            if let End::TooLong(_) = end {
                peer.metrics.refused(FrameFault::TooLong);
            }
            end
        }
    }
}

/// Hands on the messages of a chunk. A frame that is refused is dropped, and the stream goes on.
fn deliver_all(
    shared: &Shared,
    peer: &Peer,
    class: Class,
    decoder: &mut Decoder,
    chunk: &mut Bytes,
) -> Result<(), TooLong> {
    while let Some(frame) = decoder.next(chunk)? {
        let Frame::Message(bytes) = frame else { continue };
        match inspect::decode(shared, peer, bytes) {
            Ok(message) => {
                peer.metrics.received(Path::of(class));
                shared.handler.deliver(peer.id, message);
            }
            Err(fault) => inspect::refuse(peer, fault),
        }
    }
    Ok(())
}

/// Sets a gauge to 1 while a stream is read.
struct Active<'a>(&'a Gauge);

impl<'a> Active<'a> {
    fn new(gauge: &'a Gauge<i64, AtomicI64>) -> Active<'a> {
        gauge.set(1);
        Active(gauge)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.set(0);
    }
}
