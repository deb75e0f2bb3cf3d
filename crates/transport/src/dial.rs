//! Requests to peers: one connection for each, driven by the task that asked.
//!
//! The connection's own work (reading the socket, writing the body) is polled together with whatever waits for it, in
//! one task: a second task would cost a wake-up for every read.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kvd_raftpb::peer_url::PeerUrl;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::Config;
use crate::error::DialError;
use crate::identity;

/// Longest explanation of a refusal that is read, in bytes.
const REASON_BYTES: usize = 512;

/// A connection to a peer, for one request.
pub(crate) struct Exchange<B: Body + 'static> {
    url: PeerUrl,
    sender: http1::SendRequest<B>,
    connection: Driven<B>,
}

struct Driven<B: Body + 'static> {
    connection: Pin<Box<http1::Connection<TokioIo<TcpStream>, B>>>,
    over: bool,
}

impl<B> Exchange<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Connects.
    pub(crate) async fn open(config: &Config, url: &PeerUrl) -> Result<Exchange<B>, DialError> {
        let limit = config.dial_timeout;
        let socket = timeout(limit, async {
            let socket = TcpStream::connect((url.host(), url.port())).await?;
            socket.set_nodelay(true)?;
            Ok(socket)
        })
        .await
        .map_err(|_| DialError::Timeout { url: url.clone(), what: "accept the connection", limit })?
        .map_err(|cause| DialError::Connect { url: url.clone(), cause })?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(config.max_head_bytes)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(|cause| DialError::Http { url: url.clone(), cause })?;
        let connection = Driven { connection: Box::pin(connection), over: false };
        Ok(Exchange { url: url.clone(), sender, connection })
    }

    /// Sends the request and waits for the head of the answer, without a deadline.
    pub(crate) async fn ask(&mut self, mut request: Request<B>) -> Result<Response<Incoming>, DialError> {
        if let Ok(host) = HeaderValue::try_from(self.url.authority()) {
            request.headers_mut().insert(HOST, host);
        }
        self.connection
            .drive(self.sender.send_request(request))
            .await
            .map_err(|cause| DialError::Http { url: self.url.clone(), cause })
    }

    /// Like [`Exchange::ask`], with the deadline that any peer should meet.
    pub(crate) async fn ask_promptly(
        &mut self,
        config: &Config,
        request: Request<B>,
    ) -> Result<Response<Incoming>, DialError> {
        let limit = config.head_timeout;
        let late = DialError::Timeout { url: self.url.clone(), what: "answer", limit };
        timeout(limit, self.ask(request)).await.unwrap_or(Err(late))
    }

    /// Waits for a future that depends on the connection: the next part of a body.
    pub(crate) async fn drive<T>(&mut self, future: impl Future<Output = T>) -> T {
        self.connection.drive(future).await
    }

    /// Takes an answer that should have come from member `id` and be a success. An answer from anyone else means
    /// nothing, "you were removed" least of all.
    pub(crate) async fn accept(
        &mut self,
        config: &Config,
        id: u64,
        response: Response<Incoming>,
    ) -> Result<Incoming, DialError> {
        let stranger = identity::answerer(response.headers()) != Some((id, config.cluster_id));
        // Whoever says that it is somebody else is asked for the words; any other answer of a stranger is noise.
        if stranger && response.status() != StatusCode::PRECONDITION_FAILED {
            return Err(DialError::Stranger { url: self.url.clone(), id });
        }
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        Err(self.refusal(config, response).await)
    }

    /// Reads why a request was refused.
    pub(crate) async fn refusal(&mut self, config: &Config, response: Response<Incoming>) -> DialError {
        let status = response.status();
        let body = Limited::new(response.into_body(), REASON_BYTES).collect();
        let reason = match timeout(config.head_timeout, self.drive(body)).await {
            Ok(Ok(body)) => String::from_utf8_lossy(&body.to_bytes()).escape_debug().to_string(),
            _ => "(no explanation)".to_owned(),
        };
        DialError::Refused { url: self.url.clone(), status, reason }
    }
}

impl<B> Driven<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    async fn drive<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        poll_fn(|cx| {
            // An error of the connection reaches the future too, so it is not lost here.
            if !self.over && self.connection.as_mut().poll(cx).is_ready() {
                self.over = true;
            }
            future.as_mut().poll(cx)
        })
        .await
    }
}
