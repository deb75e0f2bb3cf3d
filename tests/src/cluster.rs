//! Several members and the directory they live in.

use std::path::Path;

use tempfile::TempDir;

use crate::{Member, PATIENCE, wait_until};

/// Flags of every member, unless the test gives others: elections in a second, on a busy machine too.
const FAST: [[&str; 2]; 2] = [["--tick-ms", "50"], ["--election-ticks", "10"]];

/// A cluster of processes. Dropping it ends them all; a test that failed gets the end of their logs.
#[derive(Debug)]
pub struct Cluster {
    // Before the directory: members end first.
    members: Vec<Member>,
    extra: Vec<String>,
    directory: TempDir,
}

impl Cluster {
    /// Starts members 1 to `size` and waits until all are ready.
    pub fn start(size: u64) -> Cluster {
        Cluster::start_with(size, &[])
    }

    /// As [`Cluster::start`], with more flags for every member, later ones included.
    pub fn start_with(size: u64, extra: &[&str]) -> Cluster {
        let mut cluster = Cluster::prepare(size, extra);
        for member in &mut cluster.members {
            member.spawn();
        }
        for member in &mut cluster.members {
            member.wait_ready();
        }
        cluster
    }

    /// Ports and directory for members 1 to `size`, none of which runs yet.
    pub fn prepare(size: u64, extra: &[&str]) -> Cluster {
        let directory = TempDir::with_prefix("kvd-test-").expect("a temporary directory");
        let mut members: Vec<Member> = (1..=size).map(|id| Member::new(id, directory.path())).collect();
        let urls: Vec<String> = members.iter().map(Member::peer_url).collect();
        let unless_given = FAST.iter().filter(|[flag, _]| !extra.contains(flag)).flatten();
        let extra: Vec<String> = unless_given.chain(extra).map(|s| (*s).to_owned()).collect();
        for member in &mut members {
            let mut args = vec!["--cluster".to_owned(), urls.join(",")];
            args.extend(extra.iter().cloned());
            member.set_args(args);
        }
        Cluster { members, extra, directory }
    }

    /// The directory that holds logs and data directories.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Member `id`.
    pub fn member(&self, id: u64) -> &Member {
        self.members.iter().find(|m| m.id() == id).unwrap_or_else(|| panic!("no member {id}"))
    }

    /// Member `id`, to start or stop it.
    pub fn member_mut(&mut self, id: u64) -> &mut Member {
        self.members.iter_mut().find(|m| m.id() == id).unwrap_or_else(|| panic!("no member {id}"))
    }

    /// All members, by id as long as none was added out of order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// All members, to start or stop them.
    pub fn members_mut(&mut self) -> &mut [Member] {
        &mut self.members
    }

    /// A member with ports and flags for `--join`, neither added to the configuration nor started.
    ///
    /// Its list holds the URLs of all members that are not its own, and its own last.
    pub fn prepare_joiner(&mut self, id: u64) -> &mut Member {
        let mut joiner = Member::new(id, self.directory.path());
        let mut urls: Vec<String> = self.members.iter().map(Member::peer_url).collect();
        urls.push(joiner.peer_url());
        let mut args = vec!["--cluster".to_owned(), urls.join(","), "--join".to_owned()];
        args.extend(self.extra.iter().cloned());
        joiner.set_args(args);
        self.members.push(joiner);
        self.members.last_mut().expect("it was pushed")
    }

    /// Adds member `id` through member `through`, starts it and waits until it is ready.
    pub fn add(&mut self, id: u64, through: u64) {
        let url = self.prepare_joiner(id).peer_url();
        let answer = self.member(through).request("POST", &format!("/{id}"), url);
        assert_eq!(answer.status, 204, "POST /{id} at member {through}: {}", answer.text());
        self.member_mut(id).start();
    }

    /// The member that says it leads. Waits until one does; a deposed leader may say so for a moment, too.
    pub fn leader(&self) -> u64 {
        wait_until("some member leads", PATIENCE, || {
            self.members.iter().find(|m| m.metric("etcd_server_is_leader") == Some(1.0)).map(Member::id)
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for member in &self.members {
                let log = member.log();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("--- member {}, the last of {} lines", member.id(), lines.len());
                for line in &lines[lines.len().saturating_sub(60)..] {
                    eprintln!("{line}");
                }
            }
        }
    }
}
