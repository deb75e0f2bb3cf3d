//! What the peer listener answers.
//!
//! | request | answer |
//! |---|---|
//! | `GET /raft/stream/{msgapp,message}/{from}` | 200 and an endless body of frames for member `from` |
//! | `POST /raft` | 204 once the messages in the body are delivered |
//! | `POST /raft/snapshot` | 204 once the snapshot is durable and its message delivered |
//! | `POST /raft/call` | 200 and the handler's answer to the request in the body |
//! | `GET /raft/members` | 200 and the member list (prost `kvd.node.Membership`), for a joiner |
//! | `GET /raft/probing` | 200 and nothing |
//!
//! Refusals: 404 no such path, or the sender is not a member; 405 wrong method; 400 headers or message that make no
//! sense; 408 a body that stalls; 409 the handler did nothing; 410 the sender was removed; 411 a body of unknown length;
//! 412 other cluster, version or recipient; 413 a frame or a request beyond the limit; 500 the snapshot could not be
//! stored, or nobody knows what became of the call; 503 not now; 504 the call's time is over. The body says why.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use prost::Message as _;

use crate::call;
use crate::identity::{self, Refusal};
use crate::outbox::Class;
use crate::server::Link;
use crate::shared::Shared;
use crate::stream::{OutStream, ResponseBody};
use crate::{post_receiver, snapshot_receiver};

/// The path of a stream, without the class and the id of the member that reads it.
pub(crate) const STREAM: &str = "/raft/stream/";
/// The path that takes posts.
pub(crate) const POSTS: &str = "/raft";
/// The path that takes snapshots.
pub(crate) const SNAPSHOT: &str = "/raft/snapshot";
/// The path that takes calls.
pub(crate) const CALL: &str = "/raft/call";
/// The path that answers with the member list.
pub(crate) const MEMBERS: &str = "/raft/members";
/// The path that answers.
pub(crate) const PROBING: &str = "/raft/probing";

enum Route {
    Stream(Class, u64),
    Posts,
    Snapshot,
    Call,
    Members,
    Probing,
}

impl Route {
    fn of(path: &str) -> Option<Route> {
        match path {
            POSTS => Some(Route::Posts),
            SNAPSHOT => Some(Route::Snapshot),
            CALL => Some(Route::Call),
            MEMBERS => Some(Route::Members),
            PROBING => Some(Route::Probing),
            _ => {
                let (class, id) = path.strip_prefix(STREAM)?.split_once('/')?;
                let id = Some(id).filter(|id| id.bytes().all(|b| b.is_ascii_digit()))?;
                Some(Route::Stream(Class::parse(class)?, id.parse().ok()?))
            }
        }
    }

    fn method(&self) -> Method {
        match self {
            Route::Posts | Route::Snapshot | Route::Call => Method::POST,
            Route::Stream(..) | Route::Members | Route::Probing => Method::GET,
        }
    }
}

/// Answers one request.
pub(crate) async fn answer(
    shared: Arc<Shared>,
    link: Arc<Link>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let config = &shared.config;
    let (own, cluster) = (config.member_id, config.cluster_id);
    let post = request.uri().path() == POSTS;
    let mut response = match route(&shared, link, request).await {
        Ok(response) => response,
        Err((refusal, allow)) => {
            tracing::debug!(status = refusal.status.as_u16(), reason = refusal.reason, "request refused");
            shared.metrics.refused_request(refusal.status.as_u16());
            let mut response =
                whole(refusal.status, Bytes::from(refusal.reason), "text/plain; charset=utf-8");
            if let Some(allow) = allow.and_then(|method| HeaderValue::from_str(method.as_str()).ok()) {
                response.headers_mut().insert(ALLOW, allow);
            }
            response
        }
    };
    identity::write(response.headers_mut(), own, Some(cluster), None);
    if !post || response.status() != StatusCode::NO_CONTENT {
        // Only posts follow each other: streams last, and the rest is rare.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn route(
    shared: &Arc<Shared>,
    link: Arc<Link>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, (Refusal, Option<Method>)> {
    let plain = |refusal| (refusal, None);
    let Some(route) = Route::of(request.uri().path()) else {
        return Err(plain(Refusal::new(StatusCode::NOT_FOUND, "no such path")));
    };
    let method = route.method();
    if request.method() != method {
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("this path takes {method}"));
        return Err((refusal, Some(method)));
    }
    match route {
        Route::Probing => Ok(whole(StatusCode::OK, Bytes::new(), "text/plain")),
        Route::Members => members(shared, &request).map_err(plain),
        Route::Stream(class, id) => stream(shared, link, &request, class, id).map_err(plain),
        Route::Call => {
            let answer = call::answer(shared, request).await.map_err(plain)?;
            Ok(whole(StatusCode::OK, answer, "application/octet-stream"))
        }
        Route::Snapshot => {
            snapshot_receiver::receive(shared, request).await.map_err(plain)?;
            Ok(done())
        }
        Route::Posts => {
            post_receiver::receive(shared, request).await.map_err(plain)?;
            Ok(done())
        }
    }
}

fn stream(
    shared: &Arc<Shared>,
    link: Arc<Link>,
    request: &Request<Incoming>,
    class: Class,
    id: u64,
) -> Result<Response<ResponseBody>, Refusal> {
    let from = identity::check(request.headers(), shared.config.member_id, shared.config.cluster_id)?;
    if from != id {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("the path says member {id}, the header says {from}"),
        ));
    }
    let peer = shared.member(from)?;
    let stream = OutStream::attach(shared.clone(), peer, class, link)
        .ok_or_else(|| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "this member is stopping"))?;
    let place = stream.place();
    let mut response = Response::new(ResponseBody::Stream(Box::new(stream)));
    identity::write_place(response.headers_mut(), place);
    Ok(response)
}

fn members(shared: &Shared, request: &Request<Incoming>) -> Result<Response<ResponseBody>, Refusal> {
    let from = identity::sender(request.headers())?;
    let Some(membership) = shared.handler.membership() else {
        return Err(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "this member does not know the members yet",
        ));
    };
    if membership.removed.contains(&from) {
        return Err(Refusal::new(
            StatusCode::GONE,
            format!("member {from} was removed from the cluster; add it again under a new id"),
        ));
    }
    if !membership.members.iter().any(|member| member.id == from) {
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            format!("{from} is not a member of the cluster yet"),
        ));
    }
    Ok(whole(StatusCode::OK, membership.encode_to_vec().into(), "application/x-protobuf"))
}

fn done() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(None));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn whole(status: StatusCode, body: Bytes, kind: &'static str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(Some(body).filter(|body| !body.is_empty())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
