//! Flags, and what they must satisfy before anything is opened.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Parser;
use clap::builder::BoolishValueParser;
use kvd_node::{Announcement, MAX_PEER_URLS, MAX_URL_BYTES};
use kvd_raftpb::peer_url::{PeerUrl, PeerUrlError, parse_peer_url};

use crate::recover;

/// A durable, linearizable, replicated key-value store over HTTP.
///
/// Without any flag it is a working store of one member. Three members on one machine:
///
///   all=http://127.0.0.1:12379,http://127.0.0.1:22379,http://127.0.0.1:32379
///   kvd --id 1 --cluster $all --port 12380
///   kvd --id 2 --cluster $all --port 22380
///   kvd --id 3 --cluster $all --port 32380
#[derive(Debug, Clone, Parser)]
#[command(name = "kvd", version, verbatim_doc_comment, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it in place of the text above")]
    pub flags: Flags,
    /// What to do instead of running a member.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What there is to do but to run a member.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Make a stopped member's directory a cluster of its own, when a majority is lost for good
    Recover(recover::Flags),
}

// No documentation comment: clap would show it as that of the program.
#[allow(missing_docs)]
#[derive(Debug, Clone, clap::Args)]
pub struct Flags {
    /// This member's id: its position in --cluster, counted from 1
    #[arg(long, env = "KVD_ID", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub id: u64,

    /// Peer URLs of the members, separated by commas; member i has the i-th
    #[arg(long, env = "KVD_CLUSTER", value_delimiter = ',', default_value = "http://127.0.0.1:9021")]
    pub cluster: Vec<String>,

    /// Port for clients
    #[arg(long, env = "KVD_PORT", default_value_t = 9121)]
    pub port: u16,

    /// Join a running cluster (POST /ID there first) instead of starting a new one
    #[arg(long, env = "KVD_JOIN", value_parser = BoolishValueParser::new())]
    pub join: bool,

    /// Where this member keeps its log and snapshots [default: ./kvd-ID]
    #[arg(long, env = "KVD_DATA_DIR")]
    pub data_dir: Option<PathBuf>,

    /// Address to listen on for clients
    #[arg(long, env = "KVD_LISTEN", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub listen: IpAddr,

    /// Address and port to listen on for peers, where it differs from this member's URL in --cluster
    #[arg(long, env = "KVD_LISTEN_PEER")]
    pub listen_peer: Option<SocketAddr>,

    /// Address and port to listen on for clients that speak Redis's protocol [default: none]
    #[arg(long, env = "KVD_LISTEN_REDIS")]
    pub listen_redis: Option<SocketAddr>,

    /// Take JOIN, LEAVE and SNAPSHOT at --listen-redis from other machines, too
    #[arg(long, env = "KVD_REDIS_ADMIN", value_parser = BoolishValueParser::new(), requires = "listen_redis")]
    pub redis_admin: bool,

    /// Peer URLs that the others are told to reach this member at, separated by commas [default: its URL in --cluster]
    #[arg(long, env = "KVD_ADVERTISE_PEER", value_delimiter = ',')]
    pub advertise_peer: Vec<String>,

    /// Client URLs that the member list has for this member, separated by commas [default: from --listen and --port]
    #[arg(long, env = "KVD_ADVERTISE_CLIENT", value_delimiter = ',')]
    pub advertise_client: Vec<String>,

    /// Allow listeners beyond loopback although there is no TLS yet
    #[arg(long, env = "KVD_INSECURE", value_parser = BoolishValueParser::new())]
    pub insecure: bool,

    /// Milliseconds in a tick, between the leader's heartbeats; the same on every member
    #[arg(long, env = "KVD_TICK_MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub tick_ms: u64,

    /// Ticks without a leader before an election; the same on every member
    #[arg(long, env = "KVD_ELECTION_TICKS", default_value_t = 10, value_parser = clap::value_parser!(u16).range(2..=1000))]
    pub election_ticks: u16,

    /// Bytes that the log grows, at least, between two snapshots
    #[arg(long, env = "KVD_SNAPSHOT_BYTES", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(4096..))]
    pub snapshot_bytes: u64,

    /// Bytes of one file of the log; the next one is prepared ahead, so there are always two
    #[arg(long, env = "KVD_SEGMENT_BYTES", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(65_536..=1 << 30))]
    pub segment_bytes: u64,

    /// What to log: error, warn, info, debug, trace, or a filter such as info,kvd_node=debug
    #[arg(long, env = "KVD_LOG", default_value = "info")]
    pub log: String,
}

/// Flags that contradict themselves. Nothing has been opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// One of `--cluster`.
    #[error("--cluster: {0}")]
    Url(#[from] PeerUrlError),
    /// One of `--advertise-peer`.
    #[error("--advertise-peer: {0}")]
    PeerUrl(PeerUrlError),
    /// One of `--advertise-client`, or too many of either.
    #[error("{0}")]
    Advertised(String),
    /// Two members cannot have one URL.
    #[error("--cluster lists {0} twice")]
    Twice(PeerUrl),
    /// The id has no URL.
    #[error(
        "--id {id} is outside --cluster, which lists {len}: member i has the i-th URL; a member that is not in the list \
         needs --advertise-peer"
    )]
    Id {
        /// The id.
        id: u64,
        /// How many URLs there are.
        len: usize,
    },
    /// Not a level.
    #[error(
        "--log {0:?}: a level is one of error, warn, info, debug, trace, off; a filter is like info,kvd_node=debug"
    )]
    Log(String),
    /// A listener that others can reach, without encryption.
    #[error(
        "{flag} {address} can be reached from other machines, and kvd has no TLS yet: anybody there could read and \
         write; use a loopback address, or --insecure on a network that you trust"
    )]
    Exposed {
        /// The flag.
        flag: &'static str,
        /// The address.
        address: String,
    },
}

/// Checked flags.
#[derive(Debug, Clone)]
pub struct Settings {
    /// As given.
    pub flags: Flags,
    /// The parsed `--cluster`.
    pub cluster: Vec<PeerUrl>,
    /// The directory of this member.
    pub data_dir: PathBuf,
    /// `host:port` to bind for peers.
    pub listen_peer: String,
    /// What the others are told of this member.
    pub announcement: Announcement,
}

impl TryFrom<Flags> for Settings {
    type Error = Invalid;

    fn try_from(flags: Flags) -> Result<Self, Invalid> {
        // A word that is no level would pass for the name of a module, and silence everything else.
        let levels = ["error", "warn", "info", "debug", "trace", "off"];
        let bad =
            |part: &&str| !part.contains('=') && !levels.contains(&part.trim().to_ascii_lowercase().as_str());
        if let Some(word) = flags.log.split(',').find(bad) {
            return Err(Invalid::Log(word.to_owned()));
        }
        let cluster =
            flags.cluster.iter().map(|url| parse_peer_url(url.trim())).collect::<Result<Vec<_>, _>>()?;
        for (at, url) in cluster.iter().enumerate() {
            if cluster[..at].contains(url) {
                return Err(Invalid::Twice(url.clone()));
            }
        }
        let advertised = flags.advertise_peer.iter().map(|url| parse_peer_url(url.trim()));
        let mut advertised = advertised.collect::<Result<Vec<_>, _>>().map_err(Invalid::PeerUrl)?;
        if advertised.is_empty() {
            let outside = Invalid::Id { id: flags.id, len: cluster.len() };
            let own = usize::try_from(flags.id - 1).ok().and_then(|at| cluster.get(at)).ok_or(outside)?;
            advertised.push(own.clone());
        }
        let own = &advertised[0];
        if !flags.insecure {
            if !flags.listen.is_loopback() {
                return Err(Invalid::Exposed { flag: "--listen", address: flags.listen.to_string() });
            }
            if let Some(address) = flags.listen_redis.filter(|address| !address.ip().is_loopback()) {
                return Err(Invalid::Exposed { flag: "--listen-redis", address: address.to_string() });
            }
            match flags.listen_peer {
                Some(address) if !address.ip().is_loopback() => {
                    return Err(Invalid::Exposed { flag: "--listen-peer", address: address.to_string() });
                }
                None if !is_loopback(own) => {
                    return Err(Invalid::Exposed { flag: "--cluster", address: own.to_string() });
                }
                _ => {}
            }
        }
        let listen_peer = flags.listen_peer.map_or_else(|| own.authority(), |address| address.to_string());
        let announcement = Announcement {
            client_urls: client_urls(&flags, own)?,
            peer_urls: advertised.iter().map(ToString::to_string).collect(),
        };
        if announcement.peer_urls.len() > MAX_PEER_URLS || announcement.client_urls.len() > MAX_PEER_URLS {
            return Err(Invalid::Advertised(format!(
                "a member has at most {MAX_PEER_URLS} URLs of each kind"
            )));
        }
        let data_dir = flags.data_dir.clone().unwrap_or_else(|| PathBuf::from(format!("./kvd-{}", flags.id)));
        Ok(Self { cluster, data_dir, listen_peer, announcement, flags })
    }
}

/// Where clients reach this member: as given, or where it listens. One that listens everywhere is reached where its peers
/// reach it.
fn client_urls(flags: &Flags, own: &PeerUrl) -> Result<Vec<String>, Invalid> {
    if flags.advertise_client.is_empty() {
        let host = match flags.listen {
            any if any.is_unspecified() => own.host().to_owned(),
            IpAddr::V6(address) => format!("[{address}]"),
            IpAddr::V4(address) => address.to_string(),
        };
        return Ok(vec![format!("http://{host}:{}", flags.port)]);
    }
    let urls = flags.advertise_client.iter().map(|url| url.trim().trim_end_matches('/').to_owned());
    urls.map(|url| {
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")).unwrap_or_default();
        let good =
            !rest.is_empty() && !rest.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/');
        match good && url.len() <= MAX_URL_BYTES {
            true => Ok(url),
            false => Err(Invalid::Advertised(format!(
                "--advertise-client: {url:?} is no URL like http://HOST:PORT"
            ))),
        }
    })
    .collect()
}

fn is_loopback(url: &PeerUrl) -> bool {
    let host = url.host().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(args: &[&str]) -> Result<Settings, Invalid> {
        Settings::try_from(Cli::try_parse_from([&["kvd"], args].concat()).unwrap().flags)
    }

    #[test]
    fn no_flags_are_a_member_of_its_own() {
        let settings = settings(&[]).unwrap();
        assert_eq!(settings.flags.id, 1);
        assert_eq!(settings.flags.port, 9121);
        assert_eq!(settings.listen_peer, "127.0.0.1:9021");
        assert_eq!(settings.data_dir, PathBuf::from("./kvd-1"));
    }

    #[test]
    fn contradictions_are_named() {
        let two = "http://127.0.0.1:1,http://127.0.0.1:2";
        assert_eq!(settings(&["--id", "3", "--cluster", two]).unwrap_err(), Invalid::Id { id: 3, len: 2 });
        assert!(matches!(settings(&["--cluster", "no url"]), Err(Invalid::Url(_))));
        assert!(matches!(settings(&["--cluster", "http://h:1,http://h:1"]), Err(Invalid::Twice(_))));
        assert_eq!(settings(&["--log", "inof"]).unwrap_err(), Invalid::Log("inof".into()));
        assert!(settings(&["--log", "warn,kvd_node=debug"]).is_ok());
        assert!(Cli::try_parse_from(["kvd", "--redis-admin"]).is_err(), "of what?");
        assert!(settings(&["--listen-redis", "127.0.0.1:6379", "--redis-admin"]).is_ok());
        assert!(Cli::try_parse_from(["kvd", "--id", "0"]).is_err());
        assert!(Cli::try_parse_from(["kvd", "--election-ticks", "1"]).is_err());
        assert!(Cli::try_parse_from(["kvd", "--tick-ms", "0"]).is_err());
    }

    #[test]
    fn a_member_advertises_where_it_listens_unless_it_is_told_otherwise() {
        let three = "http://127.0.0.1:1,http://127.0.0.1:2,http://127.0.0.1:3";
        let announced = |args: &[&str]| {
            let announcement = settings(&[&["--cluster", three], args].concat()).unwrap().announcement;
            (announcement.peer_urls.join(" "), announcement.client_urls.join(" "))
        };
        let both = |peer: &str, client: &str| (peer.to_owned(), client.to_owned());
        assert_eq!(announced(&["--id", "2"]), both("http://127.0.0.1:2", "http://127.0.0.1:9121"));
        assert_eq!(
            announced(&["--listen", "::1", "--port", "7"]),
            both("http://127.0.0.1:1", "http://[::1]:7")
        );
        assert_eq!(
            announced(&["--listen", "0.0.0.0", "--insecure"]),
            both("http://127.0.0.1:1", "http://127.0.0.1:9121")
        );
        assert_eq!(
            announced(&["--id", "7", "--advertise-peer", "http://127.0.0.1:8,http://localhost:8"]),
            both("http://127.0.0.1:8 http://localhost:8", "http://127.0.0.1:9121"),
            "outside the list"
        );
        assert_eq!(announced(&["--advertise-client", "http://kvd.example:80/"]).1, "http://kvd.example:80");
        let eight = ["http://127.0.0.1:8"; 8].join(",");
        assert!(settings(&["--advertise-client", &eight]).is_ok());
        for bad in [
            &["--advertise-peer", "no url"][..],
            &["--advertise-client", "kvd.example:80"],
            &["--advertise-client", "http://"],
            &["--advertise-client", "http://a b:1"],
            &["--advertise-client", &format!("{eight},http://127.0.0.1:9")],
            &["--advertise-client", &format!("http://{}", "a".repeat(1018))],
        ] {
            assert!(settings(bad).is_err(), "{bad:?}");
        }
        assert!(settings(&["--advertise-client", &format!("http://{}", "a".repeat(1017))]).is_ok());
    }

    #[test]
    fn a_command_stands_beside_the_flags() {
        let cli = |line: &str| Cli::try_parse_from(line.split_whitespace());
        assert!(cli("kvd").unwrap().command.is_none());
        assert_eq!(cli("kvd --id 3 --cluster a,b,c").unwrap().flags.id, 3);
        assert!(cli("kvd recover --data-dir d --new-cluster").unwrap().command.is_some());
        for bad in [
            "kvd recover --data-dir d",
            "kvd recover --new-cluster",
            "kvd --id 1 recover --data-dir d --new-cluster",
        ] {
            assert!(cli(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_listener_beyond_loopback_needs_the_word() {
        for (args, flag) in [
            (&["--listen", "0.0.0.0"][..], "--listen"),
            (&["--listen-peer", "0.0.0.0:9021"], "--listen-peer"),
            (&["--listen-redis", "0.0.0.0:6379"], "--listen-redis"),
            (&["--cluster", "http://10.0.0.1:9021"], "--cluster"),
            (&["--cluster", "http://example.org:9021"], "--cluster"),
        ] {
            let error = settings(args).unwrap_err();
            assert!(
                matches!(&error, Invalid::Exposed { flag: found, .. } if *found == flag),
                "{args:?}: {error}"
            );
            assert!(error.to_string().contains("TLS"));
            assert!(settings(&[args, &["--insecure"]].concat()).is_ok());
        }
        for fine in ["http://localhost:9021", "http://[::1]:9021", "http://127.9.9.9:9021"] {
            assert!(settings(&["--cluster", fine]).is_ok(), "{fine}");
        }
        // What is bound counts, not what is advertised.
        assert!(settings(&["--cluster", "http://10.0.0.1:1", "--listen-peer", "127.0.0.1:1"]).is_ok());
    }
}
