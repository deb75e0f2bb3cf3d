//! The whole door on one thread, with a store whose answers a test can choose, and a client that shows what was sent.

mod connections;
mod pipelines;
mod surface;

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::MutexGuard;
use std::task::{Context, Poll};

use kvd_kvstore::command::{Command, Response};
use kvd_kvstore::store::Store;
use kvd_kvstore::{Consistency, Deleted, Error, Limits as StoreLimits, Reading, Status, Written};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};

use super::*;

/// What the door asked of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Propose,
    Confirm,
    Local,
}

#[derive(Clone)]
struct Fake {
    state: Arc<Mutex<State>>,
    /// An answer to a command waits for a permit and takes it for ever.
    gate: Arc<Semaphore>,
}

struct State {
    store: Store,
    asked: Vec<Asked>,
    status: Status,
    limits: StoreLimits,
    /// Every request fails with it.
    fail: Option<Error>,
    /// Applied before the next command, as if another client had been faster.
    others: Vec<Command>,
    members: Vec<(u64, String)>,
}

impl Fake {
    fn new() -> Self {
        let state = State {
            store: Store::new(),
            asked: Vec::new(),
            status: Status { id: 1, cluster_id: 7, leader: Some(1), term: 3, applied: 9, member: true },
            limits: StoreLimits::default(),
            fail: None,
            others: Vec::new(),
            members: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)) }
    }

    /// Answers to commands wait for [`Fake::open`].
    fn shut(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    fn open(&self) {
        self.gate.add_permits(1 << 20);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// What was asked since the last call.
    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state().asked)
    }
}

fn apply(store: &mut Store, command: Command) -> Result<Response, Error> {
    match command {
        Command::Put { key, value } => Ok(Response::Put(store.put(&key, &value))),
        Command::Delete { key } => Ok(Response::Delete(store.delete(&key))),
        Command::Sequence(commands) => {
            use kvd_kvstore::command::Refusal;
            let one = |command| match apply(store, command) {
                Ok(response) => response,
                Err(Error::NotANumber) => Response::Refused(Refusal::NotANumber),
                Err(Error::Overflow) => Response::Refused(Refusal::Overflow),
                Err(_) => Response::Refused(Refusal::TooLarge),
            };
            Ok(Response::Sequence(commands.into_iter().map(one).collect()))
        }
        Command::Txn(txn) => match store.transact(&txn, &mut Vec::new()) {
            Ok(done) => Ok(Response::Txn(done)),
            Err(kvd_kvstore::command::Refusal::NotANumber) => Err(Error::NotANumber),
            Err(kvd_kvstore::command::Refusal::Overflow) => Err(Error::Overflow),
            Err(_) => Err(Error::WouldBeTooLarge { limit: 0 }),
        },
    }
}

impl Door for Fake {
    async fn put(&self, _: Bytes, _: Bytes) -> Result<Written, Error> {
        Err(Error::BadResponse)
    }

    async fn delete(&self, _: Bytes) -> Result<Deleted, Error> {
        Err(Error::BadResponse)
    }

    async fn get(&self, _: Bytes, _: Consistency) -> Result<Reading, Error> {
        Err(Error::BadResponse)
    }

    fn propose(
        &self,
        command: Command,
    ) -> impl Future<Output = Result<Response, Error>> + Send + 'static + use<> {
        let mut state = self.state();
        state.asked.push(Asked::Propose);
        let answer = match (&state.fail, state.limits.check_command(&command)) {
            (Some(error), _) => Err(error.clone()),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => {
                for other in std::mem::take(&mut state.others) {
                    apply(&mut state.store, other).unwrap();
                }
                apply(&mut state.store, command)
            }
        };
        drop(state);
        let gate = self.gate.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            answer
        }
    }

    fn local(&self) -> impl Deref<Target = Store> {
        let mut state = self.state();
        state.asked.push(Asked::Local);
        Box::new(state.store.clone())
    }

    async fn confirm(&self, _: Duration) -> Result<(), Error> {
        let mut state = self.state();
        state.asked.push(Asked::Confirm);
        state.fail.clone().map_or(Ok(()), Err)
    }

    async fn add_member(&self, id: u64, peer_url: &str) -> Result<(), Error> {
        let mut state = self.state();
        state.members.push((id, peer_url.to_owned()));
        state.fail.clone().map_or(Ok(()), Err)
    }

    async fn remove_member(&self, id: u64) -> Result<(), Error> {
        let mut state = self.state();
        state.members.retain(|(member, _)| *member != id);
        state.fail.clone().map_or(Ok(()), Err)
    }

    async fn snapshot(&self, _: Duration) -> Result<u64, Error> {
        self.state().fail.clone().map_or(Ok(9), Err)
    }

    fn status(&self) -> Status {
        self.state().status
    }

    fn limits(&self) -> StoreLimits {
        self.state().limits
    }
}

/// A server's end of a connection that counts its writes.
struct Counted {
    stream: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A client's end.
struct Client {
    stream: DuplexStream,
    /// How often the server has written.
    writes: Arc<AtomicUsize>,
}

impl Client {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads exactly `expected`.
    #[track_caller]
    fn expect(&mut self, expected: impl AsRef<[u8]>) -> impl Future<Output = ()> {
        let (expected, caller) = (expected.as_ref().to_vec(), std::panic::Location::caller());
        async move {
            let mut found = vec![0; expected.len()];
            let mut at = 0;
            while at < found.len() {
                match self.stream.read(&mut found[at..]).await.unwrap() {
                    0 => break,
                    n => at += n,
                }
                // A wrong beginning is not waited for.
                if found[..at] != expected[..at] {
                    break;
                }
            }
            let (found, expected) =
                (found[..at].escape_ascii().to_string(), expected.escape_ascii().to_string());
            assert_eq!(found, expected, "{caller}");
        }
    }

    async fn ask(&mut self, request: impl AsRef<[u8]>, expected: impl AsRef<[u8]>) {
        self.send(request).await;
        self.expect(expected).await;
    }

    /// The other side has closed, and has said nothing more.
    async fn expect_end(&mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest.escape_ascii().to_string(), "");
    }

    /// All that comes until the other side closes.
    async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).await.unwrap();
        rest.escape_ascii().to_string()
    }
}

/// A door that is served by hand.
struct Opened {
    connections: Connections<Fake>,
}

impl Opened {
    fn new(door: &Fake, options: Options) -> Self {
        let address = "127.0.0.1:6379".parse().unwrap();
        let shared = Arc::new(Shared::new(door.clone(), options, address));
        Self { connections: Connections { shared, tasks: JoinSet::new(), open: HashMap::new() } }
    }

    /// A connection whose pipe holds `pipe` bytes in each direction.
    fn connect_through(&mut self, pipe: usize, address: &str) -> Client {
        let (stream, server) = duplex(pipe);
        let writes = Arc::new(AtomicUsize::new(0));
        self.connections.add(Counted { stream: server, writes: writes.clone() }, address.parse().ok());
        Client { stream, writes }
    }

    fn connect(&mut self) -> Client {
        self.connect_through(1 << 20, "127.0.0.1:50000")
    }
}

fn opened(door: &Fake) -> Opened {
    Opened::new(door, Options::default())
}

/// A request as clients send it.
fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}
