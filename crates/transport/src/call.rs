//! Calls: one request to a peer, one answer, a limit in time, on a connection of its own.
//!
//! ```text
//! POST /raft/call, Kvd-Limit-Ms: 5000, Content-Length: n     200 and the answer
//! the request's n bytes                                  ->  409, or any other 4xx, or 503: nothing was done
//!                                                            500, 504, anything else, nothing: unknown
//! ```
//!
//! A request is written once at most. Until the connection stands, every failure means that nothing was done; from the
//! first byte on, only an answer of the right member can say so. The callee answers 4xx or 503 only if its handler has
//! not seen the request, or has said that it did nothing.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::HeaderValue;
use hyper::{Method, Request, StatusCode};
use kvd_raftpb::peers::{BoxFuture, CallError};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::dial::Exchange;
use crate::error::DialError;
use crate::handler::CALL;
use crate::identity::{self, Refusal};
use crate::metrics::Outcome;
use crate::peer::Peer;
use crate::shared::Shared;

/// Starts a call, or says at once why it cannot.
pub(crate) fn start(
    shared: &Arc<Shared>,
    to: u64,
    request: Bytes,
    limit: Duration,
) -> BoxFuture<Result<Bytes, CallError>> {
    let (peer, permit) = match admit(shared, to, request.len()) {
        Ok(admitted) => admitted,
        Err(error) => return Box::pin(ready(Err(error))),
    };
    let end = Instant::now() + limit;
    let (reply, answer) = oneshot::channel();
    let task = {
        let shared = shared.clone();
        async move {
            let _permit = permit;
            let result = exchange(&shared, &peer, request, end).await;
            peer.metrics.called(Outcome::of(&result));
            // Whoever has dropped the future does not want to know.
            let _ = reply.send(result);
        }
    };
    shared.spawn(task);
    Box::pin(async move {
        answer.await.unwrap_or_else(|_| Err(CallError::unknown("the transport's runtime was shut down")))
    })
}

fn admit(shared: &Shared, to: u64, len: usize) -> Result<(Arc<Peer>, OwnedSemaphorePermit), CallError> {
    let config = &shared.config;
    if shared.halt.is_cancelled() {
        return Err(CallError::not_done("this member is stopping"));
    }
    if len > config.max_call_bytes {
        return Err(CallError::not_done(format!(
            "the request has {len} bytes, a call carries {} at most",
            config.max_call_bytes
        )));
    }
    let peer = shared.directory().peers.get(&to).cloned();
    let peer = peer.ok_or_else(|| CallError::not_done(format!("member {to} is not known here")))?;
    let permit = shared.calling.clone().try_acquire_owned().map_err(|_| {
        CallError::not_done(format!("{} calls are under way, which is the most", config.max_calls))
    })?;
    Ok((peer, permit))
}

async fn exchange(shared: &Shared, peer: &Peer, request: Bytes, end: Instant) -> Result<Bytes, CallError> {
    const GOING: &str = "this member is stopping, or the other was removed";
    let config = &shared.config;
    let id = peer.id;
    let url = peer.url().ok_or_else(|| CallError::not_done(format!("member {id} has no URL")))?;
    let connecting = timeout_at(end, Exchange::open(config, &url));
    let mut exchange = match peer.cancel.run_until_cancelled(connecting).await {
        Some(Ok(Ok(exchange))) => exchange,
        Some(Ok(Err(error))) => {
            peer.unreachable(&url);
            return Err(CallError::not_done(error.to_string()));
        }
        Some(Err(_)) => return Err(CallError::not_done(format!("no connection to {url} in time"))),
        None => return Err(CallError::not_done(GOING)),
    };
    let asking = timeout_at(end, ask(shared, peer, &mut exchange, request, end));
    match peer.cancel.run_until_cancelled(asking).await {
        Some(Ok(result)) => result,
        Some(Err(_)) => Err(CallError::unknown(format!("no answer of {url} in time"))),
        None => Err(CallError::unknown(GOING)),
    }
}

/// From here on, the peer may have the request.
async fn ask(
    shared: &Shared,
    peer: &Peer,
    exchange: &mut Exchange<Full<Bytes>>,
    body: Bytes,
    end: Instant,
) -> Result<Bytes, CallError> {
    let config = &shared.config;
    let unknown = |error: DialError| CallError::unknown(error.to_string());
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = identity::path(CALL.to_owned());
    identity::write(request.headers_mut(), config.member_id, Some(config.cluster_id), Some(peer.id));
    let left = end.saturating_duration_since(Instant::now()).as_millis();
    let left = HeaderValue::from(u64::try_from(left).unwrap_or(u64::MAX));
    request.headers_mut().insert(identity::LIMIT, left);

    let response = exchange.ask(request).await.map_err(unknown)?;
    let body = match exchange.accept(config, peer.id, response).await {
        Ok(body) => body,
        Err(error) if error.is_gone() => {
            shared.was_removed(peer.id, &error.to_string());
            return Err(CallError::not_done(error.to_string()));
        }
        Err(DialError::Refused { status, reason, .. })
            if status.is_client_error() || status == StatusCode::SERVICE_UNAVAILABLE =>
        {
            return Err(CallError::not_done(format!("member {} says: {reason}", peer.id)));
        }
        Err(DialError::Refused { reason, .. }) => {
            return Err(CallError::unknown(format!("member {} says: {reason}", peer.id)));
        }
        Err(error) => return Err(unknown(error)),
    };
    let answer = exchange.drive(Limited::new(body, config.max_call_bytes).collect()).await;
    // The peer has done it. But what came of it did not arrive, and that is the caller's question.
    answer.map(|body| body.to_bytes()).map_err(|error| {
        CallError::unknown(format!("the answer of member {} is not whole: {error}", peer.id))
    })
}

/// Answers the call of a peer.
pub(crate) async fn answer(shared: &Shared, request: Request<Incoming>) -> Result<Bytes, Refusal> {
    let config = &shared.config;
    let from = identity::check(request.headers(), config.member_id, config.cluster_id)?;
    let peer = shared.member(from)?;
    let limit = identity::number(request.headers(), &identity::LIMIT, 10)?;
    let limit = Duration::from_millis(limit).min(config.max_call_time);
    let end = Instant::now() + limit;
    let refuse = |status, reason: String| Err(Refusal::new(status, reason));
    match request.body().size_hint().exact() {
        None => return refuse(StatusCode::LENGTH_REQUIRED, "a call needs a Content-Length".to_owned()),
        Some(len) if len > config.max_call_bytes as u64 => {
            let reason = format!("a call of {len} bytes, {} are the most", config.max_call_bytes);
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, reason);
        }
        Some(_) => {}
    }
    let Ok(_permit) = shared.answering.try_acquire() else {
        let reason = format!("{} calls are being answered, which is the most; try again", config.max_calls);
        return refuse(StatusCode::SERVICE_UNAVAILABLE, reason);
    };
    let body = match timeout_at(end, request.into_body().collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return refuse(StatusCode::BAD_REQUEST, format!("call cut short: {error}")),
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the call did not arrive in time".to_owned()),
    };
    let left = end.saturating_duration_since(Instant::now());
    let result = timeout_at(end, shared.handler.answer(from, body, left)).await.unwrap_or_else(|_| {
        Err(CallError::unknown(format!("member {} had no answer within {limit:?}", config.member_id)))
    });
    let result = result.and_then(|answer| match answer.len() {
        len if len <= config.max_call_bytes => Ok(answer),
        len => Err(CallError::unknown(format!(
            "the answer has {len} bytes, {} are the most",
            config.max_call_bytes
        ))),
    });
    peer.metrics.answered(Outcome::of(&result));
    match result {
        Ok(answer) => Ok(answer),
        Err(CallError::NotDone { reason }) => refuse(StatusCode::CONFLICT, reason),
        Err(CallError::Unknown { reason }) if Instant::now() >= end => {
            refuse(StatusCode::GATEWAY_TIMEOUT, reason)
        }
        Err(CallError::Unknown { reason }) => refuse(StatusCode::INTERNAL_SERVER_ERROR, reason),
    }
}
