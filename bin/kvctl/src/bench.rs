//! A closed loop of writes.
//!
//! Every client has a connection of its own and one request in flight: it sends, waits for the answer, sends the next.
//! All clients share one thread, and a request's bytes are made once and only patched afterwards, because the clients
//! usually run on the machine that they measure.
//!
//! What is counted: answers that arrive within the measured seconds, after the warm-up. Only 2xx is an acknowledgement;
//! its latency goes from just before the first byte is sent to just after the last one is read. Everything else is
//! counted as an error under its status or its cause. A closed loop sends less while the server is slow, so that its
//! percentiles say what its clients saw, not what clients that arrive on a schedule would see.
//!
//! A client that lost its connection opens another one at the same endpoint, at most every 50 ms. Clients whose answer
//! is still missing 10 s after the end are given up and counted.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::{JoinSet, LocalSet};

use crate::http::{Connection, Error, request};
use crate::{BenchPut, Endpoint, Report};

/// Pause after a connection failed, so that a dead endpoint costs no processor time.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// How long the last answers are waited for after the end.
const GRACE: Duration = Duration::from_secs(10);

/// The measured part of the run.
#[derive(Debug, Clone, Copy)]
struct Window {
    from: Instant,
    until: Instant,
}

/// Runs `bench put` and reports.
pub async fn put(endpoints: &[Endpoint], flags: &BenchPut) -> Report {
    let from = Instant::now() + Duration::from_secs_f64(flags.warmup);
    let window = Window { from, until: from + Duration::from_secs_f64(flags.seconds) };
    let report = Rc::new(RefCell::new(Report::new(endpoints, flags)));

    let run = async {
        let mut clients = JoinSet::new();
        for (number, endpoint) in (0..flags.clients).zip(endpoints.iter().cycle()) {
            let request = PutRequest::new(endpoint, flags, u64::from(number));
            clients.spawn_local(client(endpoint.clone(), request, window, Rc::clone(&report)));
        }
        let all_done = async { while clients.join_next().await.is_some() {} };
        // The deadline is missed by clients without an answer: counted here, ended with the set.
        if tokio::time::timeout_at((window.until + GRACE).into(), all_done).await.is_err() {
            for _ in 0..clients.len() {
                report.borrow_mut().error(&format!("no answer {} s after the end", GRACE.as_secs()));
            }
        }
    };
    LocalSet::new().run_until(run).await;
    report.borrow().clone()
}

/// One client, until the window closes.
async fn client(endpoint: Endpoint, mut request: PutRequest, window: Window, report: Rc<RefCell<Report>>) {
    while Instant::now() < window.until {
        let fault = match Connection::open(&endpoint).await {
            Ok(mut connection) => match drive(&mut connection, &mut request, window, &report).await {
                Ok(()) => continue,
                Err(Error::Io(error)) => format!("connection lost ({})", error.kind()),
                Err(error @ Error::Protocol(_)) => error.to_string(),
            },
            Err(error) => format!("cannot connect ({})", error.kind()),
        };
        if (window.from..window.until).contains(&Instant::now()) {
            report.borrow_mut().error(&fault);
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// Requests on one connection, until the window or the server closes it.
async fn drive(
    connection: &mut Connection,
    request: &mut PutRequest,
    window: Window,
    report: &RefCell<Report>,
) -> Result<(), Error> {
    loop {
        let sent = Instant::now();
        if sent >= window.until {
            return Ok(());
        }
        let head = connection.exchange(request.next(), None).await?;
        let answered = Instant::now();
        if (window.from..window.until).contains(&answered) {
            let mut report = report.borrow_mut();
            match head.status {
                200..=299 => report.acknowledge(answered - sent),
                status => report.error(&status.to_string()),
            }
        }
        if head.close {
            return Ok(());
        }
    }
}

/// The bytes of a PUT, whose key is replaced in place.
struct PutRequest {
    bytes: Vec<u8>,
    /// Where the digits of the key's number stand.
    digits: std::ops::Range<usize>,
    keys: u32,
    random: Random,
}

/// Before the ten digits of a key's number.
const KEY_PREFIX: &str = "bench-";

impl PutRequest {
    fn new(endpoint: &Endpoint, flags: &BenchPut, client: u64) -> PutRequest {
        let mut random = Random::new(client);
        let value: Vec<u8> = (0..flags.value_bytes).map(|_| random.next() as u8).collect();
        let bytes = request("PUT", endpoint, &format!("/{KEY_PREFIX}{:010}", 0), &value);
        let start = "PUT /".len() + KEY_PREFIX.len();
        PutRequest { bytes, digits: start..start + 10, keys: flags.keys, random }
    }

    /// The request for another key.
    fn next(&mut self) -> &[u8] {
        // The upper half times the number of keys, shifted back: as good as equally often below 2^32 keys.
        let mut number = ((self.random.next() >> 32) * u64::from(self.keys)) >> 32;
        for digit in self.bytes[self.digits.clone()].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        &self.bytes
    }
}

/// SplitMix64: each client walks the keys in an order of its own, the same in every run.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0xD1B5_4A32_D192_ED03))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn flags(keys: u32, value_bytes: u32) -> BenchPut {
        BenchPut { clients: 1, seconds: 1.0, warmup: 0.0, value_bytes, keys, json: false }
    }

    #[test]
    fn only_the_key_changes_between_requests() {
        let endpoint: Endpoint = "http://127.0.0.1:1".parse().unwrap();
        let mut request = PutRequest::new(&endpoint, &flags(1000, 3), 7);
        let first = request.next().to_vec();
        let second = request.next().to_vec();
        assert_ne!(first, second);
        let text = String::from_utf8_lossy(&second);
        assert!(text.starts_with("PUT /bench-0000000"), "{text}");
        assert!(text.contains(" HTTP/1.1\r\nHost: 127.0.0.1:1\r\nContent-Length: 3\r\n\r\n"), "{text}");
        assert_eq!(first[..request.digits.start], second[..request.digits.start]);
        assert_eq!(first[request.digits.end..], second[request.digits.end..]);
    }

    #[test]
    fn every_key_is_written_and_no_other() {
        let endpoint: Endpoint = "http://127.0.0.1:1".parse().unwrap();
        for keys in [1, 2, 10] {
            let mut request = PutRequest::new(&endpoint, &flags(keys, 0), 0);
            let digits = request.digits.clone();
            let written: BTreeSet<Vec<u8>> =
                (0..1000).map(|_| request.next()[digits.clone()].to_vec()).collect();
            let all: BTreeSet<Vec<u8>> = (0..keys).map(|n| format!("{n:010}").into_bytes()).collect();
            assert_eq!(written, all);
        }
    }
}
