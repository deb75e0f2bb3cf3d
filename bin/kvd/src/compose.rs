//! A member from its parts, and its life.
//!
//! Opened in this order, closed in the reverse one: listeners (a port in use changes nothing), directory and its lock,
//! the node (log and snapshots), the transport, the door. On SIGTERM or SIGINT the door stops taking requests and
//! finishes those it has; then the node hands leadership over and closes its log; then the transport ends. A second
//! signal ends the process at once, which a member survives as it survives any crash.

use std::fmt::{self, Display};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use kvd_http_api::{Extras, HttpApi, Server};
use kvd_kvstore::{Kv, Service, Shared};
use kvd_node::{Config, Exit, Fatal, Handle, Home, Known, Membership, Node, Start};
use kvd_raftpb::peer_url::PeerUrl;
use kvd_resp_api::RespApi;
use kvd_transport::Transport;
use kvd_vfs::RealDisk;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::config::Settings;
use crate::metrics;
use crate::peers::KnownPeers;

/// How long one attempt to join lasts before the log says again what it waits for.
const JOIN_ATTEMPT: Duration = Duration::from_secs(3);

/// How long a first member looks for others that may have known it.
const WIPED_ATTEMPT: Duration = Duration::from_millis(250);

/// How a member ended that has nothing to complain about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    id: u64,
    exit: Exit,
}

impl Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.exit {
            Exit::Shutdown => write!(f, "member {} stopped", self.id),
            Exit::Removed => {
                write!(
                    f,
                    "member {} was removed from the cluster; its id is spent, its directory can go",
                    self.id
                )
            }
        }
    }
}

/// Why a member could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A listener.
    #[error("cannot listen on {address}: {source}{}", if source.kind() == io::ErrorKind::AddrInUse { "; is another member running? use another --port or --cluster" } else { "" })]
    Listen {
        /// What was to be bound.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// The directory of another cluster.
    #[error(
        "{} belongs to member {} of cluster {:016x}, whose members are at {}, and --cluster is that of \
         another one; use that cluster's flags, or another --data-dir",
        path.display(), known.identity.member_id, known.identity.cluster_id, urls(known)
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        known: Box<Known>,
    },
    /// The member's disk is not the one it ran with.
    #[error(
        "member {id} has run before as a part of this cluster, and {} is empty: what it voted and acknowledged is lost, \
         so it must not go on under this id; remove it (DELETE /{id} at another member) and add it under a new one",
        path.display()
    )]
    Wiped {
        /// The member.
        id: u64,
        /// Its directory.
        path: PathBuf,
    },
    /// The cluster removed this id before.
    #[error("cannot join: {0}; an id never comes back, so add this member under a new one")]
    RemovedBefore(String),
    /// A first member that is not in the list.
    #[error(
        "--id {id} is outside --cluster, which lists {len}: member i of a new cluster has the i-th URL; --join is for members that were added"
    )]
    NotListed {
        /// The member.
        id: u64,
        /// How many URLs there are.
        len: usize,
    },
    /// A joiner cannot ask.
    #[error("cannot join: {0}")]
    Join(kvd_transport::Error),
    /// The node.
    #[error(transparent)]
    Fatal(#[from] Fatal),
    /// The system.
    #[error("{what}: {source}")]
    System {
        /// What failed.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// A bug.
    #[error("the node's task failed: {0}; this is a bug")]
    Task(#[from] JoinError),
}

fn urls(known: &Known) -> String {
    let members = known.membership.iter().flat_map(|list| &list.members);
    members.flat_map(|member| &member.peer_urls).map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// Runs a member to its end.
///
/// # Errors
/// [`Failure`]: every kind says what to do about it.
pub async fn run(settings: Settings) -> Result<Ended, Failure> {
    let id = settings.flags.id;
    let mut signals = Signals::install()?;
    let clients = listen(SocketAddr::new(settings.flags.listen, settings.flags.port).to_string()).await?;
    let redis = match settings.flags.listen_redis {
        Some(address) => Some(listen(address.to_string()).await?),
        None => None,
    };
    let peers = listen(settings.listen_peer.clone()).await?;
    let home = Home::open(Arc::new(RealDisk::new()), &settings.data_dir)?;
    let known = home.known()?;
    if let Some(known) = &known {
        check_directory(&settings, known)?;
    }

    // A joiner that has no member list of its own needs the one of its peers, to dial them.
    let own_list = known.as_ref().and_then(|known| known.membership.clone());
    let (start, list) = match (known, own_list) {
        (Some(known), Some(list)) => (Start::Join { cluster_id: known.identity.cluster_id }, list),
        (None, _) if !settings.flags.join => {
            let len = settings.cluster.len();
            if usize::try_from(id).is_ok_and(|id| id > len) {
                return Err(Failure::NotListed { id, len });
            }
            refuse_if_wiped(&settings).await?;
            let urls: Vec<String> = settings.cluster.iter().map(ToString::to_string).collect();
            let (cluster_id, members) = (kvd_node::cluster_id(&urls), kvd_node::initial_members(&urls));
            let list = Membership { cluster_id, members: members.clone(), removed: Vec::new() };
            (Start::Initial { cluster_id, members }, list)
        }
        _ => tokio::select! {
            list = ask_for_members(&settings) => {
                let list = list?;
                (Start::Join { cluster_id: list.cluster_id }, list)
            }
            () = signals.first() => return Ok(Ended { id, exit: Exit::Shutdown }),
        },
    };

    let store = Shared::new();
    let node = home.start(node_config(&settings), &start, Kv::new(store.clone()))?;
    let listeners = Listeners { clients, redis, peers };
    let member = Running::compose(&settings, node, store, &list, listeners)?;
    let exit = member.live(&mut signals).await?;
    Ok(Ended { id, exit })
}

async fn listen(address: String) -> Result<TcpListener, Failure> {
    TcpListener::bind(&address).await.map_err(|source| Failure::Listen { address, source })
}

/// A directory is this member's if the ids agree, and this cluster's if the flags describe the same first members, or
/// name a member that the directory knows: the list may have changed since.
fn check_directory(settings: &Settings, known: &Known) -> Result<(), Failure> {
    let identity = &known.identity;
    if identity.member_id != settings.flags.id {
        return Err(Failure::Fatal(Fatal::NotOurs {
            path: settings.data_dir.clone(),
            found_member: identity.member_id,
            found_cluster: identity.cluster_id,
            member: settings.flags.id,
            cluster: None,
        }));
    }
    let named: Vec<String> = settings.cluster.iter().map(ToString::to_string).collect();
    let members = known.membership.iter().flat_map(|list| &list.members);
    let urls: Vec<&String> = members.clone().flat_map(|member| &member.peer_urls).collect();
    let strange: Vec<&String> = named.iter().filter(|url| !urls.contains(url)).collect();
    let same = kvd_node::cluster_id(&named) == identity.cluster_id || strange.is_empty() || urls.is_empty();
    // A member that began as a cluster of its own is not one of several, unless it joins them: whoever joined it is in
    // its newest snapshot. For a larger cluster the snapshot may be older than the list; and one that shrank, or was
    // recovered, may be started with the flags that it always had.
    let began_alone =
        |member: &kvd_node::Member| kvd_node::cluster_id(&member.peer_urls) == identity.cluster_id;
    let is_alone = members.clone().count() == 1 && members.clone().all(began_alone);
    let is_moved = !settings.flags.advertise_peer.is_empty();
    let another = (strange.len() == named.len() && !is_moved) || (is_alone && !settings.flags.join);
    if same || !another {
        if !same {
            tracing::warn!(?strange, "--cluster names members that this one does not know of");
        }
        return Ok(());
    }
    Err(Failure::OtherCluster { path: settings.data_dir.clone(), known: Box::new(known.clone()) })
}

fn node_config(settings: &Settings) -> Config {
    let flags = &settings.flags;
    Config {
        election_ticks: flags.election_ticks.into(),
        snapshot_bytes: flags.snapshot_bytes,
        segment_bytes: flags.segment_bytes,
        announce: Some(settings.announcement.clone()),
        catch_up_bytes: Config::new(flags.id).catch_up_bytes.min(flags.snapshot_bytes),
        ..Config::new(flags.id)
    }
}

/// Asks the other members until one of them knows this one.
async fn ask_for_members(settings: &Settings) -> Result<Membership, Failure> {
    let id = settings.flags.id;
    let others = other_urls(settings);
    loop {
        match kvd_transport::fetch_membership(&others, id, JOIN_ATTEMPT).await {
            Ok(list) => return Ok(list),
            Err(error @ kvd_transport::Error::Removed { .. }) => {
                return Err(Failure::RemovedBefore(error.to_string()));
            }
            Err(
                error @ (kvd_transport::Error::NotMember { .. } | kvd_transport::Error::Unavailable { .. }),
            ) => {
                tracing::warn!(member = id, %error, "waiting to join; POST this member's URL to /{id} of a member");
            }
            Err(error) => return Err(Failure::Join(error)),
        }
    }
}

/// The members of `list` where `--cluster` has them: some may have moved since this one last heard of them.
fn named(settings: &Settings, list: &Membership) -> Vec<kvd_node::Member> {
    let members = (1..)
        .zip(&settings.cluster)
        .filter(|(id, _)| *id != settings.flags.id && list.members.iter().any(|member| member.id == *id));
    let member = |(id, url): (u64, &PeerUrl)| kvd_node::Member {
        id,
        peer_urls: vec![url.to_string()],
        ..kvd_node::Member::default()
    };
    members.map(member).collect()
}

/// The URLs in `--cluster` but this member's own.
fn other_urls(settings: &Settings) -> Vec<String> {
    let id = settings.flags.id;
    (1..).zip(&settings.cluster).filter(|(other, _)| *other != id).map(|(_, url)| url.to_string()).collect()
}

/// A first member that begins with an empty directory asks the others whether it has run before: then it has lost what
/// it voted and acknowledged, and must not go on under its id. If nobody answers, nobody knows better.
async fn refuse_if_wiped(settings: &Settings) -> Result<(), Failure> {
    let id = settings.flags.id;
    let others = other_urls(settings);
    if others.is_empty() {
        return Ok(());
    }
    match kvd_transport::fetch_membership(&others, id, WIPED_ATTEMPT).await {
        Ok(list) if list.members.iter().any(|member| member.id == id && member.boot > 0) => {
            Err(Failure::Wiped { id, path: settings.data_dir.clone() })
        }
        Err(error @ kvd_transport::Error::Removed { .. }) => Err(Failure::RemovedBefore(error.to_string())),
        _ => Ok(()),
    }
}

/// Where the member can be reached, each bound already.
struct Listeners {
    clients: TcpListener,
    redis: Option<TcpListener>,
    peers: TcpListener,
}

/// What clients come in by.
struct Doors {
    http: Server,
    redis: Option<kvd_resp_api::Server>,
}

impl Doors {
    /// Takes no more requests, and finishes those it has. Both at once: each may take its time.
    async fn shutdown(self) {
        let redis = async {
            if let Some(redis) = self.redis {
                redis.shutdown().await;
            }
        };
        tokio::join!(self.http.shutdown(), redis);
    }
}

/// The running parts.
struct Running {
    handle: Handle,
    transport: Transport,
    doors: Doors,
    /// [`KnownPeers::ask_while_lost`], which does not end by itself.
    asking: JoinHandle<()>,
    running: JoinHandle<Result<Exit, Fatal>>,
}

impl Running {
    fn compose(
        settings: &Settings,
        node: Node<Kv>,
        store: Shared,
        list: &Membership,
        listeners: Listeners,
    ) -> Result<Self, Failure> {
        let flags = &settings.flags;
        let handle = node.handle();
        let config =
            kvd_transport::Config { member_id: flags.id, cluster_id: list.cluster_id, ..Default::default() };
        let snapshots = Arc::new(node.snapshots());
        let transport = Transport::start(config, Arc::new(handle.clone()), snapshots, &Membership::default());
        let named = named(settings, list);
        let known = KnownPeers::new(transport.clone(), &handle.membership(), &list.members, named);
        transport.serve(listeners.peers);
        let seeds = other_urls(settings);
        let asking = tokio::spawn(known.clone().ask_while_lost(handle.clone(), list.cluster_id, seeds));

        let mut registry = Registry::default();
        node.metrics().register(&mut registry);
        transport.metrics().register(&mut registry);
        let extras = Extras { metrics: metrics::encoder(registry, store.clone()) };
        let service = Service::new(handle.clone(), store);
        let http = HttpApi::new(service.clone(), extras).serve(listeners.clients);
        let http = http.map_err(|source| Failure::System { what: "the HTTP door", source })?;
        let options = kvd_resp_api::Options { admin: flags.redis_admin, ..Default::default() };
        let redis =
            listeners.redis.map(|listener| RespApi::new(service).with_options(options).serve(listener));
        let redis = redis.transpose().map_err(|source| Failure::System { what: "the Redis door", source })?;
        let doors = Doors { http, redis };

        let ticks = ticks(Duration::from_millis(flags.tick_ms));
        let running = tokio::spawn(node.run(Arc::new(known), ticks));
        if let Some(redis) = &doors.redis {
            tracing::info!(address = %redis.local_addr(), "serving Redis's protocol");
        }
        tracing::info!(member = flags.id, clients = %doors.http.local_addr(), peers = %settings.listen_peer, "serving");
        Ok(Self { handle, transport, doors, asking, running })
    }

    /// Lives until a signal, a removal or a failure, and closes what was opened.
    async fn live(mut self, signals: &mut Signals) -> Result<Exit, Failure> {
        let ended = tokio::select! {
            ended = &mut self.running => {
                self.doors.shutdown().await;
                ended
            }
            () = signals.first() => {
                signals.end_at_the_second();
                tracing::info!("stopping");
                self.doors.shutdown().await;
                self.handle.shutdown();
                self.running.await
            }
        };
        self.asking.abort();
        // It ends as it was told to, or has panicked, which then matters to nobody.
        let _ = self.asking.await;
        self.transport.stop().await;
        Ok(ended??)
    }
}

/// The time since start, once a tick. A tick that comes late is not made up for: time that the process did not have is
/// not time that its leader was silent.
fn ticks(every: Duration) -> impl Stream<Item = Duration> {
    let begun = Instant::now();
    let mut interval = interval(every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stream::poll_fn(move |cx| interval.poll_tick(cx).map(|_| Some(begun.elapsed())))
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> Result<Self, Failure> {
        let system = |source| Failure::System { what: "cannot listen for signals", source };
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(system)?,
            interrupt: signal(SignalKind::interrupt()).map_err(system)?,
        })
    }

    async fn first(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// From now on a signal ends the process, with the exit code that a shell gives to it.
    fn end_at_the_second(&mut self) {
        if let Ok(mut again) = Self::install() {
            tokio::spawn(async move {
                let code = tokio::select! {
                    _ = again.terminate.recv() => 143,
                    _ = again.interrupt.recv() => 130,
                };
                eprintln!("kvd: stopped by a second signal");
                std::process::exit(code);
            });
        }
    }
}
