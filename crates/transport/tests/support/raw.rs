//! A peer played by hand: HTTP/1 written and read byte for byte.

use bytes::{Buf as _, BytesMut};
use kvd_raftpb::codec::{decode_message, encode_message};
use raft::eraftpb::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::soon;

/// The headers of a request from one member to another of the test's cluster.
pub fn headers(from: u64, to: u64) -> Vec<(&'static str, String)> {
    vec![
        ("Host", "test".to_owned()),
        ("Kvd-From", from.to_string()),
        ("Kvd-To", to.to_string()),
        ("Kvd-Cluster", format!("{:016x}", super::CLUSTER)),
        ("Kvd-Version", "1".to_owned()),
        ("Kvd-Min-Version", "1".to_owned()),
    ]
}

pub fn frame(message: &Message) -> Vec<u8> {
    let mut body = BytesMut::new();
    encode_message(message, &mut body);
    let mut frame = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    frame.extend_from_slice(&body);
    frame
}

/// A connection, and what was read from it and not used.
#[derive(Debug)]
pub struct Raw {
    pub socket: TcpStream,
    buffer: BytesMut,
    /// Bytes of decoded body that are not a whole frame yet.
    body: BytesMut,
}

/// The first line and the headers, lower-case, of a request or a response.
#[derive(Debug)]
pub struct Head {
    pub first: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    pub fn status(&self) -> u16 {
        self.first.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

impl Raw {
    pub fn new(socket: TcpStream) -> Raw {
        Raw { socket, buffer: BytesMut::new(), body: BytesMut::new() }
    }

    pub async fn connect(address: &str) -> Raw {
        Raw::new(TcpStream::connect(address).await.unwrap())
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    pub async fn request(&mut self, line: &str, headers: &[(&str, String)], body: &[u8]) {
        let mut text = format!("{line} HTTP/1.1\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        self.write(text.as_bytes()).await;
        // The other side may have refused the head and closed.
        let _ = self.socket.write_all(body).await;
    }

    async fn fill(&mut self) -> bool {
        soon("bytes arrive", self.socket.read_buf(&mut self.buffer)).await.is_ok_and(|n| n > 0)
    }

    pub async fn head(&mut self) -> Head {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let text = String::from_utf8(self.buffer.split_to(end + 4).to_vec()).unwrap();
                let mut lines = text.trim_end().split("\r\n");
                let first = lines.next().unwrap().to_owned();
                let header = |line: &str| {
                    let (name, value) = line.split_once(':').unwrap();
                    (name.to_ascii_lowercase(), value.trim().to_owned())
                };
                return Head { first, headers: lines.map(header).collect() };
            }
            assert!(self.fill().await, "closed within the head: {:?}", self.buffer);
        }
    }

    /// The next bytes, so many of them.
    pub async fn bytes(&mut self, len: usize) -> Vec<u8> {
        while self.buffer.len() < len {
            assert!(self.fill().await, "closed within the body");
        }
        self.buffer.split_to(len).to_vec()
    }

    /// The messages of a post whose head was read.
    pub async fn posted(&mut self, head: &Head) -> Vec<Message> {
        let mut body = &self.bytes(head.get("content-length").unwrap().parse().unwrap()).await[..];
        let mut messages = Vec::new();
        while !body.is_empty() {
            let len = u32::from_le_bytes(body[..4].try_into().unwrap()) as usize;
            messages.push(decode_message(body[4..4 + len].to_vec().into()).unwrap());
            body = &body[4 + len..];
        }
        messages
    }

    /// All that comes until the other side closes.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        self.buffer.split().to_vec()
    }

    /// The next chunk of a chunked body; `None` at its end or when the connection broke.
    pub async fn chunk(&mut self) -> Option<BytesMut> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let size = std::str::from_utf8(&self.buffer[..end]).unwrap();
                let size = usize::from_str_radix(size, 16).unwrap();
                if self.buffer.len() >= end + 2 + size + 2 {
                    self.buffer.advance(end + 2);
                    let chunk = self.buffer.split_to(size);
                    self.buffer.advance(2);
                    return Some(chunk).filter(|chunk| !chunk.is_empty());
                }
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// The next frame of a stream; `Some(None)` for a heartbeat, `None` at the end.
    pub async fn frame(&mut self) -> Option<Option<Message>> {
        loop {
            if self.body.len() >= 4 {
                let len = u32::from_le_bytes(self.body[..4].try_into().unwrap()) as usize;
                if self.body.len() >= 4 + len {
                    self.body.advance(4);
                    let body = self.body.split_to(len).freeze();
                    return Some((len > 0).then(|| decode_message(body).unwrap()));
                }
            }
            let chunk = self.chunk().await?;
            self.body.extend_from_slice(&chunk);
        }
    }

    /// The next message of a stream; `None` at the end.
    pub async fn message(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.frame().await? {
                return Some(message);
            }
        }
    }

    /// Writes one chunk of a chunked body.
    pub async fn write_chunk(&mut self, bytes: &[u8]) {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.write(&chunk).await;
    }

    /// Answers a request that has been read, as member `id`.
    pub async fn answer(&mut self, id: u64, status: &str, body: Option<&str>) {
        let mut text = format!("HTTP/1.1 {status}\r\n");
        for (name, value) in headers(id, 0) {
            text += &format!("{name}: {value}\r\n");
        }
        match body {
            Some(body) => text += &format!("content-length: {}\r\n\r\n{body}", body.len()),
            None => text += "transfer-encoding: chunked\r\n\r\n",
        }
        self.write(text.as_bytes()).await;
    }
}

/// Attaches to a stream of the member at `address`, as member `from`. Returns after the 200.
pub async fn attach(address: &str, class: &str, from: u64, to: u64) -> Raw {
    let mut raw = Raw::connect(address).await;
    raw.request(&format!("GET /raft/stream/{class}/{from}"), &headers(from, to), b"").await;
    let head = raw.head().await;
    assert_eq!(head.status(), 200, "{head:?}");
    raw
}

/// One request, and its whole answer.
pub async fn exchange(address: &str, line: &str, headers: &[(&str, String)], body: &[u8]) -> (Head, String) {
    let mut raw = Raw::connect(address).await;
    raw.request(line, headers, body).await;
    let head = raw.head().await;
    let rest = String::from_utf8_lossy(&raw.rest().await).into_owned();
    (head, rest)
}

/// A listener whose connections the test answers itself.
#[derive(Debug)]
pub struct FakePeer {
    listener: TcpListener,
    pub url: String,
}

impl FakePeer {
    pub async fn bind() -> FakePeer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        FakePeer { listener, url }
    }

    /// The next connection, after its request's head.
    pub async fn accept(&self) -> (Raw, Head) {
        let (socket, _) = soon("a dial", self.listener.accept()).await.unwrap();
        let mut raw = Raw::new(socket);
        let head = raw.head().await;
        (raw, head)
    }

    /// The next post with its head; other dials are hung up on.
    pub async fn accept_post(&self) -> (Raw, Head) {
        loop {
            let (raw, head) = self.accept().await;
            if head.first == "POST /raft HTTP/1.1" {
                return (raw, head);
            }
        }
    }

    /// Accepts until a dial is for that path; the others are left without an answer, and returned.
    pub async fn accept_path(&self, path: &str) -> (Raw, Vec<Raw>) {
        let mut others = Vec::new();
        loop {
            let (raw, head) = self.accept().await;
            if head.first.split(' ').nth(1) == Some(path) {
                return (raw, others);
            }
            others.push(raw);
        }
    }
}
