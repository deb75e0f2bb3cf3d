//! Posts: how messages reach a peer that has not dialled their stream.
//!
//! ```text
//! POST /raft, Kvd-Stream: msgapp, Kvd-Boot: b, Kvd-Place: n      204 once all of it is delivered
//! frames, as in a stream
//! ```
//!
//! A stream is dialled by its reader. While the reader cannot (it has just started, its stream just broke, or it cannot
//! reach this member although this member can reach it), what is queued is posted instead: everything at once, on
//! connections that are kept for as long as there is more. Of appends one post is under way at a time, each begun when
//! the last was answered; of everything else up to three, so that a vote does not wait for an answer that is late. Four
//! in all. `order` says what keeps the order.
//!
//! Nothing is posted twice. After a failed post what was queued is dropped and reported, and nothing is posted to the
//! peer for a while ([`crate::Config::redial_min`], doubling up to [`crate::Config::redial_max`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::{Method, Request};
use tokio::time::timeout;

use crate::dial::Exchange;
use crate::error::DialError;
use crate::handler::POSTS;
use crate::identity;
use crate::metrics::{DropReason, Path};
use crate::order::Place;
use crate::outbox::{Class, Post};
use crate::outgoing::Outgoing;
use crate::peer::Peer;
use crate::shared::Shared;

/// How long a poster keeps its connection for the next message. Well below the time that a receiver allows.
const LINGER: Duration = Duration::from_secs(1);

/// Starts a poster that [`crate::outbox::Outbox::push`] has asked for.
pub(crate) fn start(shared: &Arc<Shared>, peer: Arc<Peer>, class: Class) {
    let state = Counted::Waiting;
    shared.spawn(run(Poster { shared: shared.clone(), peer, class, in_hand: 0, state }));
}

/// One poster, of those that the outbox counts.
struct Poster {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    class: Class,
    /// Messages in the post that is under way.
    in_hand: usize,
    state: Counted,
}

/// What the outbox counts a poster as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    Waiting,
    Busy,
    Not,
}

async fn run(mut poster: Poster) {
    let peer = poster.peer.clone();
    if let Some(Err(error)) = peer.cancel.run_until_cancelled(poster.post_while_needed()).await {
        if let PostError::Dial(error) = &error
            && error.is_gone()
        {
            poster.shared.was_removed(peer.id, &error.to_string());
        }
        tracing::debug!(peer = peer.id, stream = poster.class.name(), %error, "not posted");
    }
}

impl Drop for Poster {
    fn drop(&mut self) {
        if self.state == Counted::Not {
            return;
        }
        let config = &self.shared.config;
        let outbox = self.peer.outbox(self.class);
        let back_off = (config.redial_min, config.redial_max);
        let (dropped, report) = outbox.break_off(self.state == Counted::Waiting, self.in_hand, back_off);
        self.peer.metrics.dropped(DropReason::NotPosted, dropped);
        if report {
            self.shared.handler.report_unreachable(self.peer.id);
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum PostError {
    #[error("the peer has no URL")]
    NoUrl,
    #[error(transparent)]
    Dial(#[from] DialError),
}

impl Poster {
    async fn post_while_needed(&mut self) -> Result<(), PostError> {
        let (shared, peer) = (self.shared.clone(), self.peer.clone());
        let config = &shared.config;
        let outbox = peer.outbox(self.class);
        let url = peer.url().ok_or(PostError::NoUrl)?;
        let mut exchange = Exchange::open(config, &url).await.inspect_err(|_| peer.unreachable(&url))?;
        let mut batch = VecDeque::new();
        // A receiver takes bodies of twice its longest frame.
        let max = config.write_bytes.min(config.max_frame_bytes as usize);
        loop {
            let more = outbox.more_to_post.notified();
            let number = match outbox.take_post(self.state == Counted::Waiting, &mut batch, max) {
                Post::Take(number) => number,
                Post::Over => {
                    self.state = Counted::Not;
                    return Ok(());
                }
                Post::Wait => {
                    self.state = Counted::Waiting;
                    if timeout(LINGER, more).await.is_err() && outbox.retire() {
                        self.state = Counted::Not;
                        return Ok(());
                    }
                    continue;
                }
            };
            self.state = Counted::Busy;
            self.in_hand = batch.len();
            let (body, messages) = self.encode(&mut batch);
            let bytes = body.len() as u64;
            if messages > 0 {
                let place = Place { boot: shared.boot, number };
                let post = self.post(&mut exchange, body, place).await;
                peer.metrics.posted(post.is_ok());
                post.inspect_err(|error| {
                    if error.blames_url() {
                        peer.unreachable(&url);
                    }
                })?;
                peer.metrics.sent(Path::Pipeline, messages);
                peer.metrics.sent_bytes.inc_by(bytes);
            }
            self.in_hand = 0;
            outbox.posted();
        }
    }

    /// The body of a post, and how many messages it has: those that are too large are dropped here.
    fn encode(&self, batch: &mut VecDeque<Outgoing>) -> (Bytes, usize) {
        let max = self.shared.config.max_frame_bytes;
        let (mut body, mut buffer, mut chunks) = (BytesMut::new(), BytesMut::new(), VecDeque::new());
        let all = batch.len();
        let mut messages = 0;
        for outgoing in batch.drain(..) {
            match outgoing.encode(max, &mut buffer, &mut chunks) {
                Ok(()) => messages += 1,
                Err(error) => tracing::warn!(peer = self.peer.id, %error, "message dropped"),
            }
            for chunk in chunks.drain(..) {
                body.extend_from_slice(&chunk);
            }
            body.extend_from_slice(&buffer.split());
        }
        if messages < all {
            self.peer.metrics.dropped(DropReason::TooLarge, all - messages);
            self.shared.handler.report_unreachable(self.peer.id);
        }
        (body.freeze(), messages)
    }

    async fn post(
        &self,
        exchange: &mut Exchange<Full<Bytes>>,
        body: Bytes,
        place: Place,
    ) -> Result<(), DialError> {
        let config = &self.shared.config;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = identity::path(POSTS.to_owned());
        let headers = request.headers_mut();
        identity::write(headers, config.member_id, Some(config.cluster_id), Some(self.peer.id));
        identity::write_place(headers, place);
        identity::write_class(headers, self.class);
        let response = exchange.ask_promptly(config, request).await?;
        exchange.accept(config, self.peer.id, response).await.map(drop)
    }
}
