//! The whole door on one thread, with a store whose answers a test can choose, and a client that shows what was sent.

mod connections;
mod members;
mod surface;

use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::ops::Deref;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use kvd_kvstore::admin::{
    Admin, CatchUp, ChangeOutcome, MemberInfo, MemberStatus, Members, MembershipRequest, Progress, Role,
    Standing,
};
use kvd_kvstore::command::{Command, Response};
use kvd_kvstore::store::Store;
use kvd_kvstore::{
    Age, Consistency, Deleted, Door, Error, Limits, MembershipRefusal, Reading, Status, Written,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::Semaphore;

use super::*;

#[derive(Clone)]
struct Fake {
    state: Arc<Mutex<State>>,
    /// A put waits for a permit and takes it for ever.
    gate: Arc<Semaphore>,
}

struct State {
    store: Store,
    members: BTreeMap<u64, String>,
    removed: Vec<u64>,
    status: Status,
    fail: Option<Error>,
    reads: Vec<Consistency>,
    confirms: usize,
    changes: Vec<MembershipRequest>,
    already_so: bool,
    /// The loop does not turn.
    stuck: bool,
    /// No leader can be asked, which is known at the deadline.
    lost: bool,
}

impl Fake {
    fn new() -> Self {
        let state = State {
            store: Store::new(),
            members: BTreeMap::from([(1, "http://127.0.0.1:1".to_owned())]),
            removed: vec![9],
            status: Status { id: 1, cluster_id: 7, leader: Some(1), member: true, ..Status::default() },
            fail: None,
            reads: Vec::new(),
            confirms: 0,
            changes: Vec::new(),
            already_so: false,
            stuck: false,
            lost: false,
        };
        Self { state: Arc::new(Mutex::new(state)), gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn working(&self) -> Result<MutexGuard<'_, State>, Error> {
        let state = self.state();
        match &state.fail {
            Some(error) => Err(error.clone()),
            None => Ok(state),
        }
    }
}

impl Door for Fake {
    async fn put(&self, key: Bytes, value: Bytes) -> Result<Written, Error> {
        Limits::default().check_value(value.len() as u64)?;
        self.gate.acquire().await.unwrap().forget();
        Ok(self.working()?.store.put(&key, &value))
    }

    async fn delete(&self, key: Bytes) -> Result<Deleted, Error> {
        Limits::default().check_key(&key)?;
        Ok(self.working()?.store.delete(&key))
    }

    fn propose(&self, _: Command) -> impl Future<Output = Result<Response, Error>> + Send + 'static + use<> {
        ready(Err(Error::BadResponse))
    }

    fn local(&self) -> impl Deref<Target = Store> {
        Box::new(self.state().store.clone())
    }

    async fn snapshot(&self, _: Duration) -> Result<u64, Error> {
        Err(Error::BadResponse)
    }

    async fn get(&self, key: Bytes, how: Consistency) -> Result<Reading, Error> {
        Limits::default().check_key(&key)?;
        let mut state = self.working()?;
        state.reads.push(how);
        let age = match how {
            Consistency::Linearizable => Age::Current,
            Consistency::Stale => Age::AtMost(Duration::from_millis(250)),
        };
        Ok(Reading { revision: state.store.revision(), record: state.store.get(&key).cloned(), age })
    }

    async fn confirm(&self, timeout: Duration) -> Result<(), Error> {
        self.state().confirms += 1;
        if self.state().stuck {
            pending::<()>().await;
        }
        if self.state().lost {
            tokio::time::sleep(timeout).await;
            return Err(Error::NoLeader);
        }
        self.working().map(drop)
    }

    async fn add_member(&self, id: u64, peer_url: &str) -> Result<(), Error> {
        let mut state = self.working()?;
        if id == 0 || !peer_url.starts_with("http://") {
            return Err(MembershipRefusal::Invalid(format!("{peer_url:?} or {id} is bad")).into());
        }
        if state.removed.contains(&id) {
            return Err(MembershipRefusal::Removed(id).into());
        }
        let url = state.members.entry(id).or_insert_with(|| peer_url.to_owned());
        if url != peer_url {
            return Err(MembershipRefusal::Conflict { id, urls: vec![url.clone()] }.into());
        }
        Ok(())
    }

    async fn remove_member(&self, id: u64) -> Result<(), Error> {
        let mut state = self.working()?;
        match id {
            0 => Err(MembershipRefusal::Invalid("ids begin at 1".into()).into()),
            9 => Err(MembershipRefusal::Removed(9).into()),
            1 if state.members.len() == 1 => Err(MembershipRefusal::LastVoter(1).into()),
            _ if state.members.remove(&id).is_some() => Ok(()),
            _ => Err(MembershipRefusal::Unknown(id).into()),
        }
    }

    fn status(&self) -> Status {
        self.state().status
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }
}

impl Admin for Fake {
    async fn members(&self, how: Consistency) -> Result<Members, Error> {
        let mut state = self.working()?;
        state.reads.push(how);
        let voter = MemberInfo {
            id: 1,
            peer_urls: vec!["http://127.0.0.1:1".into()],
            client_urls: vec!["http://127.0.0.1:81".into()],
            standing: Standing::Voter,
            progress: None,
        };
        let learner = CatchUp { round: 2, target: 8, ready: false };
        let progress = Progress { id: u64::MAX, matched: 5, active: true, learner: Some(learner) };
        let learner = MemberInfo {
            id: u64::MAX,
            peer_urls: Vec::new(),
            client_urls: Vec::new(),
            standing: Standing::Learner,
            progress: Some(progress),
        };
        Ok(Members { cluster_id: 7, leader: Some(1), members: vec![voter, learner], removed: vec![9] })
    }

    async fn change_members(&self, request: MembershipRequest) -> Result<ChangeOutcome, Error> {
        let mut state = self.working()?;
        state.changes.push(request);
        Ok(if state.already_so { ChangeOutcome::AlreadySo } else { ChangeOutcome::Applied { index: 12 } })
    }

    async fn transfer_leadership(&self, to: Option<u64>) -> Result<u64, Error> {
        drop(self.working()?);
        Ok(to.unwrap_or(7))
    }

    fn member_status(&self) -> MemberStatus {
        MemberStatus { id: 1, cluster_id: 7, role: Role::Leader, commit: 3, ..MemberStatus::default() }
    }
}

async fn open(door: &Fake, options: Options) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let extras = Extras { metrics: Arc::new(|| "up 1\n# EOF\n".to_owned()) };
    HttpApi::new(door.clone(), extras).with_options(options).serve(listener).unwrap()
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1);
        let mut headers = lines.filter_map(|line| line.split_once(": "));
        headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

struct Client<T = TcpStream> {
    stream: T,
    buffer: Vec<u8>,
}

impl Client {
    async fn connect(server: &Server) -> Self {
        Self { stream: TcpStream::connect(server.local_addr()).await.unwrap(), buffer: Vec::new() }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The next reply; `None` if the connection was closed instead.
    async fn reply(&mut self) -> Option<Reply> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            self.fill().await?;
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
        let status = head[9..12].parse().unwrap();
        let mut reply = Reply { status, head, body: Vec::new() };
        let length = reply.header("content-length").map_or(0, |n| n.parse().unwrap());
        while self.buffer.len() < length {
            self.fill().await?;
        }
        reply.body = self.buffer.drain(..length).collect();
        Some(reply)
    }

    async fn fill(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }

    async fn request(&mut self, method: &str, path: &str, body: impl AsRef<[u8]>) -> Reply {
        let body = body.as_ref();
        self.send(format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len()))
            .await;
        self.send(body).await;
        self.reply().await.unwrap()
    }
}

/// One request on a connection of its own.
async fn once(server: &Server, method: &str, path: &str, body: impl AsRef<[u8]>) -> Reply {
    Client::connect(server).await.request(method, path, body).await
}
