//! Health, readiness, version, metrics: what those ask who run the member.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use kvd_kvstore::{Door, Error};
use tokio::time::timeout;

use crate::answer::{self, Answer};
use crate::server::Shared;

/// A member is ready while its last linearizable read is at most this old, in seconds.
const READY_SECONDS: u64 = 5;
/// How long a readiness or liveness request waits for a linearizable read. Not long enough for an election, on purpose:
/// "not ready" is an answer, and a prober has little patience.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);
/// The same for a liveness request, to which "no leader" is as good an answer as any: it has to come well within the
/// second that probers wait.
const LIVE_TIMEOUT: Duration = Duration::from_millis(200);
/// How long a liveness request waits for the node's loop to say that the read succeeded or did not: some ticks of the
/// slowest clock that is of use.
const TURN_TIMEOUT: Duration = Duration::from_secs(4);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const JSON: &str = "application/json";

/// What the door shows of the rest of the process.
#[derive(Clone)]
pub struct Extras {
    /// Encodes the metrics in OpenMetrics' text format, for `/metrics`. Runs on the connection's task: it must be brief.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

impl Default for Extras {
    /// No metrics.
    fn default() -> Self {
        Self { metrics: Arc::new(|| "# EOF\n".to_owned()) }
    }
}

impl std::fmt::Debug for Extras {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Extras").finish_non_exhaustive()
    }
}

/// Answers a GET of a reserved segment.
pub(crate) async fn handle<D: Door>(shared: &Shared<D>, segment: &str) -> Answer {
    match segment {
        "health" => health(shared),
        "livez" => match live(shared).await {
            Ok(()) => ok(),
            Err(reason) => unavailable(&reason),
        },
        "readyz" => match ready(shared).await {
            Ok(()) => ok(),
            Err(reason) => unavailable(&reason),
        },
        "version" => {
            let json = concat!("{\"kvd\":\"", env!("CARGO_PKG_VERSION"), "\",\"raft\":\"0.7\"}");
            answer::content(StatusCode::OK, JSON, Bytes::from_static(json.as_bytes()))
        }
        "metrics" => answer::content(StatusCode::OK, OPENMETRICS, (shared.extras.metrics)().into()),
        _ => not_found(),
    }
}

/// 404 for a path that is reserved and has nothing behind it.
pub(crate) fn not_found() -> Answer {
    answer::words(StatusCode::NOT_FOUND, "there is no such endpoint; keys of any shape are under /v1/kv/")
}

/// etcd's JSON, so that what watches etcd can watch this.
fn health<D: Door>(shared: &Shared<D>) -> Answer {
    let (status, json): (_, &[u8]) = match shared.door.status().leader {
        Some(_) => (StatusCode::OK, br#"{"health":"true","reason":""}"#),
        None => (StatusCode::SERVICE_UNAVAILABLE, br#"{"health":"false","reason":"RAFT NO LEADER"}"#),
    };
    answer::content(status, JSON, Bytes::from_static(json))
}

/// The loop turns if it answers a read at all, be it that there is no leader.
async fn live<D: Door>(shared: &Shared<D>) -> Result<(), String> {
    match timeout(TURN_TIMEOUT, shared.door.confirm(LIVE_TIMEOUT)).await {
        Ok(Err(error @ (Error::Stopped | Error::Removed))) => Err(error.to_string()),
        Ok(_) => Ok(()),
        Err(_) => Err(format!("the node's loop has not turned for {} s", TURN_TIMEOUT.as_secs())),
    }
}

async fn ready<D: Door>(shared: &Shared<D>) -> Result<(), String> {
    if shared.is_draining() {
        return Err("this member is stopping".into());
    }
    if !shared.door.status().member {
        return Err("this member is not part of the cluster's configuration".into());
    }
    if shared.seconds_since_confirmed().is_some_and(|age| age <= READY_SECONDS) {
        return Ok(());
    }
    match shared.door.confirm(CONFIRM_TIMEOUT).await {
        Ok(()) => {
            shared.confirmed();
            Ok(())
        }
        Err(error) => Err(format!("no linearizable read succeeded: {error}")),
    }
}

fn ok() -> Answer {
    answer::words(StatusCode::OK, "ok")
}

fn unavailable(reason: &str) -> Answer {
    answer::words(StatusCode::SERVICE_UNAVAILABLE, reason)
}
