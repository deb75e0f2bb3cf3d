//! INFO, ROLE, TIME: what this member knows of itself.

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use kvd_kvstore::Door;
use tokio::io::AsyncWrite;

use crate::connection::Session;
use crate::parse::Request;

/// The version of Redis whose commands, as far as there are any, these are.
pub(super) const REDIS_VERSION: &str = "7.0.15";

const SECTIONS: [&str; 6] = ["server", "clients", "memory", "replication", "kvd", "keyspace"];

impl<D: Door, T: AsyncWrite + Unpin + Send> Session<D, T> {
    pub(super) fn info(&mut self, request: &Request<'_>) {
        let wanted = |section: &str| {
            let is = |asked: &[u8]| {
                ["all", "default", "everything", section]
                    .into_iter()
                    .any(|name| asked.eq_ignore_ascii_case(name.as_bytes()))
            };
            request.len() == 1 || request.iter().skip(1).any(is)
        };
        let mut text = String::new();
        for section in SECTIONS.into_iter().filter(|section| wanted(section)) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            let mut title = section.to_owned();
            title[..1].make_ascii_uppercase();
            // Writing to a string does not fail, here and below.
            let _ = write!(text, "# {title}\r\n");
            self.section(section, &mut |name, value| {
                let _ = write!(text, "{name}:{value}\r\n");
            });
        }
        self.link.replies.verbatim(&text);
    }

    fn section(&self, section: &str, line: &mut dyn FnMut(&str, &dyn std::fmt::Display)) {
        let shared = &self.shared;
        let status = shared.door.status();
        match section {
            "server" => {
                line("redis_version", &REDIS_VERSION);
                line("redis_mode", &"standalone");
                line("kvd_version", &env!("CARGO_PKG_VERSION"));
                line("process_id", &std::process::id());
                line("tcp_port", &shared.address.port());
                line("uptime_in_seconds", &shared.clock.seconds());
            }
            "clients" => {
                line("connected_clients", &shared.connected.load(Relaxed));
                line("maxclients", &shared.options.connections);
            }
            "memory" => {
                line("used_memory", &shared.door.local().payload_bytes());
                line("maxmemory", &0);
                line("maxmemory_policy", &"noeviction");
            }
            "replication" => {
                if self.leads() {
                    line("role", &"master");
                } else {
                    line("role", &"slave");
                    line("master_link_status", &if status.leader.is_some() { "up" } else { "down" });
                }
                line("master_repl_offset", &status.applied);
            }
            "kvd" => {
                line("cluster_id", &format_args!("{:016x}", status.cluster_id));
                line("member_id", &status.id);
                line("leader_id", &status.leader.unwrap_or(0));
                line("term", &status.term);
                line("applied_index", &status.applied);
                line("revision", &shared.door.local().revision());
            }
            _ => {
                let keys = shared.door.local().len();
                if keys > 0 {
                    line("db0", &format_args!("keys={keys},expires=0,avg_ttl=0"));
                }
            }
        }
    }

    pub(super) fn role(&mut self) {
        let (leads, status) = (self.leads(), self.shared.door.status());
        let replies = &mut self.link.replies;
        let applied = i64::try_from(status.applied).unwrap_or(i64::MAX);
        if leads {
            replies.array(3);
            replies.bulk(b"master");
            replies.integer(applied);
            replies.array(0);
            return;
        }
        // Where the leader's clients go is not known here, and whoever asks need not go there.
        replies.array(5);
        replies.bulk(b"slave");
        replies.bulk(b"");
        replies.integer(0);
        replies.bulk(if status.leader.is_some() { b"connected" } else { b"connect" });
        replies.integer(applied);
    }

    pub(super) fn time(&mut self) {
        // A clock before 1970 is as good as any that is wrong.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let replies = &mut self.link.replies;
        replies.array(2);
        replies.bulk(now.as_secs().to_string().as_bytes());
        replies.bulk(now.subsec_micros().to_string().as_bytes());
    }
}
