//! Takes in posts: `POST /raft`. `pipeline` has the form, `order` says what of an overtaken post is dropped.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::{Request, StatusCode};
use tokio::time::timeout;

use crate::codec::{Decoder, Frame};
use crate::identity::{self, Refusal};
use crate::inspect::{self, FrameFault};
use crate::metrics::Path;
use crate::order::order_matters;
use crate::shared::Shared;

/// Takes a post, and returns when its messages are delivered. Frames that are refused do not refuse the post.
pub(crate) async fn receive(shared: &Shared, request: Request<Incoming>) -> Result<(), Refusal> {
    let config = &shared.config;
    let refuse = |status, reason: String| Err(Refusal::new(status, reason));
    let from = identity::check(request.headers(), config.member_id, config.cluster_id)?;
    let peer = shared.member(from)?;
    let class = identity::class(request.headers())?;
    let place = identity::place(request.headers())?;
    let longest = u64::from(config.max_frame_bytes) * 2;
    match request.body().size_hint().exact() {
        None => return refuse(StatusCode::LENGTH_REQUIRED, "a post needs a Content-Length".to_owned()),
        Some(len) if len > longest => {
            let reason = format!("a post of {len} bytes, {longest} are the most");
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, reason);
        }
        Some(_) => {}
    }
    let mut body = request.into_body();
    let mut decoder = Decoder::new(config.max_frame_bytes);
    loop {
        let part = match timeout(config.stream_timeout, body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(part))) => part,
            Ok(Some(Err(error))) => {
                return refuse(StatusCode::BAD_REQUEST, format!("post cut short: {error}"));
            }
            Err(_) => {
                let reason = format!("no byte of the post for {:?}", config.stream_timeout);
                return refuse(StatusCode::REQUEST_TIMEOUT, reason);
            }
        };
        let Ok(chunk) = part.into_data() else { continue };
        peer.metrics.received_bytes.inc_by(chunk.len() as u64);
        let frames = match whole_frames(&mut decoder, chunk) {
            Ok(frames) => frames,
            Err(error) => {
                peer.metrics.refused(FrameFault::TooLong);
                return refuse(StatusCode::PAYLOAD_TOO_LARGE, error.to_string());
            }
        };
        if frames.is_empty() {
            continue;
        }
        peer.inbound(class).in_post(place, |overtaken| {
            for bytes in frames {
                match inspect::decode(shared, &peer, bytes) {
                    Ok(message) if overtaken && order_matters(&message) => {
                        inspect::refuse(&peer, FrameFault::Overtaken);
                    }
                    Ok(message) => {
                        peer.metrics.received(Path::Pipeline);
                        shared.handler.deliver(from, message);
                    }
                    Err(fault) => inspect::refuse(&peer, fault),
                }
            }
        });
    }
    if !decoder.at_boundary() {
        return refuse(StatusCode::BAD_REQUEST, "the post ends within a message".to_owned());
    }
    Ok(())
}

fn whole_frames(decoder: &mut Decoder, mut chunk: Bytes) -> Result<Vec<Bytes>, crate::codec::TooLong> {
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next(&mut chunk)? {
        if let Frame::Message(bytes) = frame {
            frames.push(bytes);
        }
    }
    Ok(frames)
}
