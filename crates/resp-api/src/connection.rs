//! One connection: read, parse all that is there, run it, answer in order in one write.
//!
//! # Order within a connection
//!
//! Requests take effect in the order in which they came, as if one began when the one before it was answered. Writes that
//! have come together are one command of the log, a [`Command::Sequence`]: so none can overtake another, even if a
//! message on the way to the leader is lost and sent again. Anything else, a read above all, waits until the writes before
//! it are answered.
//!
//! # What a read sees
//!
//! A linearizable read needs a proof that this member has applied whatever was acknowledged when the read arrived.
//! There are two, and either holds for every request that has been read off the socket by then: a round of
//! [`Door::confirm`]; or an answered write of this connection, for what was acknowledged earlier stands before it
//! in the log. So the reads that arrive together share one round, and reads behind a write need none.
//!
//! # Bounds
//!
//! A sequence has at most [`WRITES`] writes and about [`WRITE_BYTES`]; what comes behind it waits for its answer. The
//! commands of all connections share [`Options::in_flight`](crate::Options::in_flight); who finds none left waits, and
//! reads nothing from its socket meanwhile. Replies are sent as soon as there are [`REPLY_BYTES`] of them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kvd_kvstore::command::{Command, Response};
use kvd_kvstore::service::DEFAULT_TIMEOUT;
use kvd_kvstore::{Door, Error};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::commands::{self, Planned, Shape};
use crate::errors;
use crate::gauge::{Gauge, Phase};
use crate::parse::{Parser, ProtocolError, Request};
use crate::reply::{Protocol, Replies};
use crate::server::Shared;
use crate::table::{self, Id};

/// What is read from a socket at a time, in bytes: a pipeline of 32 requests with 256 bytes in each.
const READ_BYTES: usize = 16 << 10;
/// Beyond this a buffer is given back once it is empty, in bytes.
const KEPT_BYTES: usize = 64 << 10;
/// Replies that are kept back to be sent in one write, in bytes.
const REPLY_BYTES: usize = 64 << 10;
/// Writes that are proposed as one command.
const WRITES: usize = 1024;
/// Bytes of such writes as they came; a longer one is proposed alone. As much as an entry of the log takes.
const WRITE_BYTES: usize = 1 << 20;

/// Whether a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Go,
    Close,
}

/// Whether this member is known to have applied what a read must see.
#[derive(Debug)]
enum Fresh {
    No,
    Yes,
    /// There was no proof to be had; what else has arrived by then need not ask again.
    Failed(Error),
}

/// What is known of the client.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) name: Bytes,
    pub(crate) library: Bytes,
    pub(crate) library_version: Bytes,
    /// It said `READONLY`.
    pub(crate) stale: bool,
}

/// The way to the client.
pub(crate) struct Link<T> {
    stream: T,
    gauge: Arc<Gauge>,
    pub(crate) replies: Replies,
}

impl<T: AsyncWrite + Unpin> Link<T> {
    /// Sends all replies.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        let bytes = &mut self.replies.bytes;
        while bytes.has_remaining() {
            self.gauge.enter(Phase::Replying);
            if self.stream.write_buf(bytes).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        self.gauge.enter(Phase::Serving);
        if bytes.capacity() > KEPT_BYTES * 2 {
            *bytes = BytesMut::new();
        }
        Ok(())
    }

    /// Sends the replies if there are many.
    pub(crate) async fn relieve(&mut self) -> io::Result<()> {
        if self.replies.bytes.len() >= REPLY_BYTES { self.flush().await } else { Ok(()) }
    }
}

/// The state of a connection, but for what has been read and not yet understood.
pub(crate) struct Session<D, T> {
    pub(crate) shared: Arc<Shared<D>>,
    pub(crate) link: Link<T>,
    pub(crate) client: Client,
    fresh: Fresh,
}

/// Writes that follow one another, and what their answers look like.
#[derive(Default)]
struct Writes {
    commands: Vec<Command>,
    shapes: Vec<Shape>,
    bytes: usize,
}

/// Serves a connection to its end.
pub(crate) async fn run<D: Door, T: AsyncRead + AsyncWrite + Unpin + Send>(
    shared: Arc<Shared<D>>,
    stream: T,
    gauge: Arc<Gauge>,
    address: Option<SocketAddr>,
) -> io::Result<()> {
    let mut parser = Parser::new(shared.options.limits);
    let mut input = BytesMut::new();
    let client = Client { id: shared.next_client.fetch_add(1, Relaxed), address, ..Client::default() };
    let link = Link { stream, gauge: gauge.clone(), replies: Replies::default() };
    let mut session = Session { shared: shared.clone(), link, client, fresh: Fresh::No };
    let mut unfinished = shared.unfinished.hold();
    loop {
        if input.is_empty() {
            gauge.enter(Phase::Idle);
            if input.capacity() > KEPT_BYTES {
                input = BytesMut::new();
            }
        } else if gauge.phase().0 != Phase::Partial {
            gauge.enter(Phase::Partial);
        }
        if !unfinished.set(input.len().saturating_sub(READ_BYTES)) {
            session.link.replies.error(&errors::words(&Error::Overloaded));
            return session.link.flush().await;
        }
        input.reserve(READ_BYTES);
        if session.link.stream.read_buf(&mut (&mut input).limit(READ_BYTES)).await? == 0 {
            return Ok(());
        }
        let flow = session.serve(&mut parser, &mut input).await?;
        if !session.link.replies.bytes.is_empty() {
            session.link.flush().await?;
        }
        if flow == Flow::Close || shared.is_draining() {
            return Ok(());
        }
    }
}

impl<D: Door, T: AsyncWrite + Unpin + Send> Session<D, T> {
    /// Runs the requests that are whole. Their replies are sent or stand in the link.
    async fn serve(&mut self, parser: &mut Parser, input: &mut BytesMut) -> io::Result<Flow> {
        let limits = self.shared.door.limits();
        let mut writes = Writes::default();
        let mut served = false;
        self.fresh = Fresh::No;
        loop {
            let request = match parser.next(input) {
                Ok(Some(request)) => request,
                Ok(None) => break,
                Err(error) => {
                    self.settle(&mut writes).await?;
                    return Ok(self.protocol_error(error));
                }
            };
            if !served {
                served = true;
                self.link.gauge.enter(Phase::Serving);
            }
            match commands::plan(&request, &limits) {
                Planned::Write(command, shape) => {
                    if let Err(error) = limits.check_command(&command) {
                        self.settle(&mut writes).await?;
                        self.link.replies.error(&errors::words(&error));
                        continue;
                    }
                    let full = writes.commands.len() >= WRITES;
                    if full || writes.bytes + request.bytes() > WRITE_BYTES {
                        self.settle(&mut writes).await?;
                    }
                    writes.commands.push(command);
                    writes.shapes.push(shape);
                    writes.bytes += request.bytes();
                }
                Planned::Refuse(words) => {
                    self.settle(&mut writes).await?;
                    self.link.replies.error(&words);
                }
                Planned::Other(id) => {
                    self.settle(&mut writes).await?;
                    if self.run(id, &request).await? == Flow::Close {
                        return Ok(Flow::Close);
                    }
                }
                Planned::Hangup => {
                    tracing::warn!(client = ?self.client.address, "an HTTP request at the Redis door: hung up");
                    return Ok(Flow::Close);
                }
            }
            self.link.relieve().await?;
        }
        self.settle(&mut writes).await?;
        Ok(Flow::Go)
    }

    /// Proposes the writes that have come together, as one command, and answers them.
    async fn settle(&mut self, writes: &mut Writes) -> io::Result<()> {
        let Writes { mut commands, shapes, bytes } = std::mem::take(writes);
        let command = match commands.len() {
            0 => return Ok(()),
            1 => commands.remove(0),
            _ => Command::Sequence(commands),
        };
        let limits = self.shared.door.limits();
        let answers = match self.write(command, bytes).await {
            Ok(Response::Sequence(responses)) if responses.len() == shapes.len() => {
                responses.into_iter().map(|response| response.accepted(&limits)).collect()
            }
            // One that was not refused, or the fate that all of them share.
            answer => vec![answer; shapes.len()],
        };
        for (answer, shape) in answers.into_iter().zip(shapes) {
            commands::render(answer, shape, &mut self.link.replies);
            self.link.relieve().await?;
        }
        Ok(())
    }

    async fn run(&mut self, id: Id, request: &Request<'_>) -> io::Result<Flow> {
        match id {
            Id::Get | Id::Mget | Id::Strlen | Id::Exists | Id::Type => self.read(id, request).await?,
            Id::Set => self.swap(request).await,
            Id::Dbsize => self.dbsize().await,
            Id::Keys => self.keys(request).await?,
            Id::Scan => self.scan(request).await,
            Id::Join | Id::Leave | Id::Snapshot => self.administrate(id, request).await,
            Id::Quit => {
                self.link.replies.ok();
                return Ok(Flow::Close);
            }
            id => self.tell(id, request),
        }
        Ok(Flow::Go)
    }

    /// Resolves once a read of [`Door::local`] is as current as the client wants it.
    pub(crate) async fn become_current(&mut self) -> Result<(), Error> {
        if self.client.stale { Ok(()) } else { self.become_sure().await }
    }

    /// Resolves once a read of [`Door::local`] is linearizable, whatever the client wants.
    pub(crate) async fn become_sure(&mut self) -> Result<(), Error> {
        match &self.fresh {
            Fresh::Yes => Ok(()),
            Fresh::Failed(error) => Err(error.clone()),
            Fresh::No => {
                let confirmed = self.shared.door.confirm(DEFAULT_TIMEOUT).await;
                self.fresh = match &confirmed {
                    Ok(()) => Fresh::Yes,
                    Err(error) => Fresh::Failed(error.clone()),
                };
                confirmed
            }
        }
    }

    /// Whether what was just read is as of now, not of some time ago.
    pub(crate) fn is_current(&self) -> bool {
        matches!(self.fresh, Fresh::Yes)
    }

    /// Proposes one command and waits for its answer. Nothing else of this connection is under way.
    pub(crate) async fn write(&mut self, command: Command, bytes: usize) -> Result<Response, Error> {
        let shared = self.shared.clone();
        let weight = shared.weight(bytes);
        let _permit = acquire(&shared.in_flight, weight).await.ok_or(Error::Overloaded)?;
        let answer = shared.door.propose(command).await;
        if answer.is_ok() {
            self.fresh = Fresh::Yes;
        }
        answer
    }

    /// Begins anew as on the first day of the connection.
    pub(crate) fn reset(&mut self) {
        let Client { id, address, .. } = self.client;
        self.client = Client { id, address, ..Client::default() };
        self.link.replies.protocol = Protocol::Resp2;
    }

    fn protocol_error(&mut self, error: ProtocolError) -> Flow {
        tracing::debug!(client = ?self.client.address, %error, "a client does not speak the protocol");
        self.link.replies.error(&format!("ERR {error}"));
        Flow::Close
    }
}

/// Waits for a share, as long as a request waits for anything.
async fn acquire(semaphore: &Semaphore, weight: u32) -> Option<SemaphorePermit<'_>> {
    timeout(DEFAULT_TIMEOUT, semaphore.acquire_many(weight)).await.ok()?.ok()
}

/// What a request is to this connection, before anything is done.
pub(crate) fn look_up<'t>(request: &Request<'_>) -> Result<&'t table::Spec, Planned> {
    let name = request.get(0);
    let Some(spec) = table::find(name) else {
        // A browser that was tricked into speaking to this port: none of what follows may be taken for requests.
        let http = name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:");
        return Err(if http { Planned::Hangup } else { Planned::Refuse(errors::unknown_command(request)) });
    };
    if !table::takes(spec.arity, request.len()) {
        return Err(Planned::Refuse(errors::arity(spec.name)));
    }
    Ok(spec)
}
