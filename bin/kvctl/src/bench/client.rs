//! One client of a measurement: a connection, the requests in flight on it, and what became of them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use super::Shared;
use super::requests::{Outcome, Requests};
use super::schedule::Pace;
use crate::http::Error;
use crate::{Endpoint, Operation};

/// Pause after a connection failed, so that a dead endpoint costs no processor time.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// One client.
pub(super) struct Client {
    /// Its place among the clients, from 0.
    pub(super) number: usize,
    pub(super) endpoint: Endpoint,
    pub(super) requests: Requests,
    /// Requests that it has in flight at most; at least 1.
    pub(super) pipeline: usize,
    pub(super) pace: Pace,
    pub(super) shared: Rc<Shared>,
}

/// A request that was sent.
struct Sent {
    /// When it should have been sent: in a closed loop, when it was.
    due: Instant,
    operation: Operation,
}

/// Why a connection is no longer used, if nothing is wrong.
#[derive(PartialEq)]
enum End {
    /// The window is closed, or there is no request left; every answer is here.
    Finished,
    /// The server said that it closes the connection.
    Closed,
}

impl Client {
    /// Runs until the window closes, or until there is no request left.
    pub(super) async fn run(mut self) {
        let mut in_flight = VecDeque::with_capacity(self.pipeline);
        while Instant::now() < self.shared.window.until {
            let mut wire = match Wire::open(&self.endpoint, &self.requests).await {
                Ok(wire) => wire,
                Err(error) => {
                    self.shared.error(&format!("cannot connect ({})", error.kind()), 1, Instant::now());
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                    continue;
                }
            };
            let end = self.drive(&mut wire, &mut in_flight).await;
            // What is still in flight stays without an answer: it took effect or not.
            let lost = in_flight.len() as u64;
            in_flight.clear();
            self.shared.in_flight.set(self.shared.in_flight.get() - lost);
            let (fault, count) = match end {
                Ok(End::Finished) => return,
                Ok(End::Closed) => {
                    self.shared.error("connection closed", lost, Instant::now());
                    continue;
                }
                Err(Error::Io(error)) => (format!("connection lost ({})", error.kind()), lost.max(1)),
                Err(error @ Error::Protocol(_)) => (error.to_string(), lost.max(1)),
            };
            self.shared.error(&fault, count, Instant::now());
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    /// Requests on one connection, as many at a time as the pipeline holds.
    async fn drive(&mut self, wire: &mut Wire, in_flight: &mut VecDeque<Sent>) -> Result<End, Error> {
        let mut now = Instant::now();
        loop {
            let sent = in_flight.len();
            let more = self.fill(&mut wire.output, in_flight, now);
            self.shared.in_flight.set(self.shared.in_flight.get() + (in_flight.len() - sent) as u64);
            if !more && in_flight.is_empty() {
                return Ok(End::Finished);
            }
            let has_room = more && in_flight.len() < self.pipeline;
            wire.turn(|cx| match &self.pace {
                Pace::Open(schedule) if has_room => schedule.poll_due(self.number, cx),
                _ => Poll::Pending,
            })
            .await?;

            now = Instant::now();
            while let Some(request) = in_flight.front() {
                let Some(answer) = self.requests.answer(wire.unread(), request.operation)? else { break };
                wire.consume(answer.length);
                self.shared.answered(request.operation, request.due, now, &answer.outcome);
                in_flight.pop_front();
                if answer.close {
                    return Ok(End::Closed);
                }
            }
            if in_flight.is_empty() && !wire.unread().is_empty() {
                return Err(Error::Protocol("more bytes than the answer has"));
            }
        }
    }

    /// Appends the requests that are due, as far as there is room; false if none will follow.
    fn fill(&mut self, output: &mut Vec<u8>, in_flight: &mut VecDeque<Sent>, now: Instant) -> bool {
        if self.pace.is_over(now, self.shared.window.until) {
            return false;
        }
        while in_flight.len() < self.pipeline {
            let due = match &self.pace {
                Pace::Closed => now,
                Pace::Open(schedule) => match schedule.take() {
                    Some(due) => due,
                    // The next one is still to come, or was the last.
                    None => return !schedule.is_over(),
                },
            };
            let Some(operation) = self.requests.next(output) else { return false };
            in_flight.push_back(Sent { due, operation });
        }
        true
    }
}

/// A connection, with what is on its way in either direction.
struct Wire {
    stream: TcpStream,
    output: Vec<u8>,
    /// How much of the output was written.
    written: usize,
    input: Vec<u8>,
    /// How much of the input was consumed.
    consumed: usize,
}

impl Wire {
    async fn open(endpoint: &Endpoint, requests: &Requests) -> io::Result<Wire> {
        let stream = TcpStream::connect(endpoint.authority()).await?;
        stream.set_nodelay(true)?;
        let mut wire =
            Wire { stream, output: Vec::new(), written: 0, input: Vec::with_capacity(4096), consumed: 0 };
        wire.output.extend_from_slice(requests.opening());
        let refused = || io::Error::other("the server refuses what the connection begins with");
        while !requests.opening().is_empty() {
            wire.turn(|_| Poll::Pending).await?;
            let answer = requests.answer(wire.unread(), Operation::Put).map_err(|_| refused())?;
            if let Some(answer) = answer {
                wire.consume(answer.length);
                match answer.outcome {
                    Outcome::Done => break,
                    _ => return Err(refused()),
                }
            }
        }
        Ok(wire)
    }

    fn unread(&self) -> &[u8] {
        &self.input[self.consumed..]
    }

    fn consume(&mut self, length: usize) {
        self.consumed += length;
        if self.consumed == self.input.len() {
            self.input.clear();
            self.consumed = 0;
        }
    }

    /// Writes what there is to write, until something was read, or until `other` is ready.
    ///
    /// Both directions go on together: a server may want its answers to be read before it reads on.
    async fn turn(&mut self, mut other: impl FnMut(&mut Context<'_>) -> Poll<()>) -> io::Result<()> {
        if self.consumed > 0 {
            self.input.drain(..self.consumed);
            self.consumed = 0;
        }
        poll_fn(|cx| {
            while self.written < self.output.len() {
                match Pin::new(&mut self.stream).poll_write(cx, &self.output[self.written..]) {
                    Poll::Ready(Ok(count)) => self.written += count,
                    // The server may have answered, and closed, before it has read all: then its answer counts, and
                    // the next read tells the loss.
                    Poll::Ready(Err(_)) => self.written = self.output.len(),
                    Poll::Pending => break,
                }
            }
            if self.written == self.output.len() {
                self.output.clear();
                self.written = 0;
            }
            match pin!(self.stream.read_buf(&mut self.input)).poll(cx) {
                Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(read) => Poll::Ready(read.map(drop)),
                Poll::Pending => other(cx).map(Ok),
            }
        })
        .await
    }
}
