//! The cluster under test: processes, the network between them, and what their directories lie on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvd_tests::ports::Port;
use kvd_tests::{Member, wait_until};

use crate::proxy::{Between, Network, Proxy};

/// How long anything may take that a healthy member does, on a busy machine and under a tracer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Small files, so that a run of seconds has many cuts and snapshots; elections within a second.
const FLAGS: [&str; 8] =
    ["--tick-ms", "50", "--election-ticks", "10", "--snapshot-bytes", "65536", "--segment-bytes", "65536"];

/// Where the wall clocks of members are faked, for [`crate::faults::Kind::Clock`].
pub const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// What a member's directory lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// Wherever the run is.
    Plain,
    /// A tmpfs that can be filled.
    Tmpfs,
    /// An ext4 of its own, on a loop device, that can lose its power.
    Ext4,
}

/// A member, and what belongs to it.
#[derive(Debug)]
pub struct Slot {
    /// Its process. Before the mount: it ends first.
    pub member: Member,
    mount: Option<Mount>,
    /// Where it listens for peers, behind the proxy.
    peer_port: Port,
    proxy: Proxy,
    /// What its directory lies on.
    pub storage: Storage,
    /// Whether it was removed from the cluster.
    pub removed: bool,
}

/// How clients reach a member.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    /// Its port for HTTP.
    pub http: u16,
    /// Its port for Redis.
    pub redis: u16,
}

/// A cluster in a directory.
#[derive(Debug)]
pub struct Cluster {
    /// Members by id, from 1, those that were removed included.
    pub slots: Vec<Slot>,
    /// The links between them.
    pub network: Arc<Network>,
    /// Those that clients may ask.
    pub addresses: Arc<Mutex<Vec<Address>>>,
    directory: PathBuf,
    fake_clocks: bool,
}

impl Cluster {
    /// `size` members in `directory`, on what `storage` says for each id. None of them runs yet.
    ///
    /// # Errors
    /// If something that they lie on cannot be made.
    pub fn prepare(
        directory: &Path,
        size: u64,
        fake_clocks: bool,
        storage: impl Fn(u64) -> Storage,
    ) -> Result<Cluster, String> {
        let mut cluster = Cluster {
            slots: Vec::new(),
            network: Arc::default(),
            addresses: Arc::default(),
            directory: directory.to_owned(),
            fake_clocks,
        };
        for id in 1..=size {
            cluster.push(id, storage(id))?;
        }
        for id in 1..=size {
            cluster.configure(id, &[])?;
        }
        Ok(cluster)
    }

    /// Starts every member and waits until all are ready.
    pub fn start(&mut self) {
        for slot in &mut self.slots {
            slot.member.spawn();
        }
        self.wait_ready();
        self.publish();
    }

    fn push(&mut self, id: u64, storage: Storage) -> Result<(), String> {
        let member = Member::new(id, &self.directory);
        let mount = match storage {
            Storage::Plain => None,
            Storage::Tmpfs => Some(Mount::tmpfs(&member.data_dir())?),
            Storage::Ext4 => Some(Mount::ext4(&member.data_dir())?),
        };
        let peer_port = Port::reserve();
        let front = member.peer_url().rsplit(':').next().and_then(|port| port.parse().ok());
        let front = front.ok_or("a peer URL ends with its port")?;
        let proxy = Proxy::start(self.network.clone(), id, front, peer_port.number())
            .map_err(|e| format!("the proxy of member {id}: {e}"))?;
        self.slots.push(Slot { member, mount, peer_port, proxy, storage, removed: false });
        Ok(())
    }

    /// Gives member `id` its flags: the URLs of all members up to the last.
    fn configure(&mut self, id: u64, extra: &[&str]) -> Result<(), String> {
        let urls: Vec<String> = self.slots.iter().map(|slot| slot.member.peer_url()).collect();
        let clock = self.clock_file(id);
        let fake = self.fake_clocks;
        let slot = self.slot_mut(id);
        let mut args: Vec<String> = FLAGS.iter().chain(extra).map(|s| (*s).to_owned()).collect();
        args.extend(["--cluster".to_owned(), urls.join(",")]);
        args.extend(["--listen-peer".to_owned(), format!("127.0.0.1:{}", slot.peer_port.number())]);
        slot.member.set_args(args);
        if fake {
            std::fs::write(&clock, b"+0\n").map_err(|e| format!("{}: {e}", clock.display()))?;
            // Only the wall clock: no system lets the monotonic one jump.
            slot.member.set_env(&[
                ("LD_PRELOAD", FAKETIME),
                ("FAKETIME_TIMESTAMP_FILE", &clock.to_string_lossy()),
                ("FAKETIME_NO_CACHE", "1"),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
                ("DONT_FAKE_MONOTONIC", "1"),
            ]);
        }
        Ok(())
    }

    /// The file that sets the wall clock of a member, where clocks are faked.
    pub fn clock_file(&self, id: u64) -> PathBuf {
        self.directory.join(format!("clock-{id}"))
    }

    /// Member `id`.
    ///
    /// # Panics
    /// If there never was one.
    pub fn slot_mut(&mut self, id: u64) -> &mut Slot {
        &mut self.slots[id as usize - 1]
    }

    /// Ids of the members that belong to the cluster.
    pub fn ids(&self) -> Vec<u64> {
        self.slots.iter().filter(|slot| !slot.removed).map(|slot| slot.member.id()).collect()
    }

    /// Tells the clients whom they may ask.
    pub fn publish(&self) {
        let current = self
            .slots
            .iter()
            .filter(|slot| !slot.removed)
            .map(|slot| Address { http: slot.member.client_port(), redis: slot.member.redis_port() });
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = current.collect();
    }

    /// Waits until every member that belongs to the cluster is ready.
    pub fn wait_ready(&mut self) {
        for slot in self.slots.iter_mut().filter(|slot| !slot.removed) {
            let id = slot.member.id();
            wait_until(&format!("member {id} is ready"), PATIENCE, || {
                if let Some(status) = slot.member.try_exit() {
                    panic!("member {id} ended with {status} instead of getting ready");
                }
                let answer = slot.member.client().request("GET", "/readyz", b"").ok()?;
                (answer.status == 200).then_some(())
            });
        }
    }

    /// Adds a member under the next id and starts it; it may not be ready yet.
    ///
    /// # Errors
    /// If the cluster does not take it in time.
    pub fn add(&mut self, storage: Storage) -> Result<u64, String> {
        let id = self.slots.len() as u64 + 1;
        self.push(id, storage)?;
        let url = self.slot_mut(id).member.peer_url();
        self.slot_mut(id).removed = true; // until it is part of it
        self.change("POST", id, url.as_bytes())?;
        self.slot_mut(id).removed = false;
        self.configure(id, &["--join"])?;
        self.slot_mut(id).member.spawn();
        Ok(id)
    }

    /// Removes a member, which then has to end by itself, with 0.
    ///
    /// # Errors
    /// If the cluster does not take the change in time, or the member ends in another way.
    pub fn remove(&mut self, id: u64) -> Result<(), String> {
        self.slot_mut(id).removed = true;
        self.publish();
        self.change("DELETE", id, b"")?;
        let status = self.slot_mut(id).member.wait_exit();
        if status.success() {
            Ok(())
        } else {
            Err(format!("member {id} was removed and ended with {status}"))
        }
    }

    /// Asks any member for a membership change until it is done: changes are idempotent.
    fn change(&mut self, method: &str, id: u64, body: &[u8]) -> Result<(), String> {
        let begun = std::time::Instant::now();
        let mut last = String::from("nobody was asked");
        while begun.elapsed() < PATIENCE {
            for slot in self.slots.iter().filter(|slot| !slot.removed) {
                match slot.member.client().request(method, &format!("/{id}"), body) {
                    Ok(answer) if answer.status == 204 => return Ok(()),
                    // It was removed by an earlier attempt that had no answer.
                    Ok(answer) if method == "DELETE" && answer.status == 404 => return Ok(()),
                    Ok(answer) => last = format!("{} {}", answer.status, answer.text()),
                    Err(error) => last = error.to_string(),
                }
            }
        }
        Err(format!("{method} /{id}: {last}"))
    }

    /// Breaks the connections that use one of these links.
    pub fn break_connections(&self, links: &[Between]) {
        for slot in &self.slots {
            slot.proxy.break_connections(links);
        }
    }

    /// Starts a member again whose process has ended.
    pub fn restart(&mut self, id: u64) {
        self.slot_mut(id).member.spawn();
    }

    /// The directory of the run.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Lines of the members' logs that only a bug writes.
    pub fn complaints(&self) -> Vec<String> {
        let mut found = BTreeSet::new();
        for slot in &self.slots {
            for line in slot.member.log().lines() {
                if line.contains("panicked at") || line.contains("this is a bug") {
                    found.insert(format!("member {}: {line}", slot.member.id()));
                }
            }
        }
        found.into_iter().collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.network.close();
    }
}

impl Slot {
    /// Takes the file system away from under the process as a power cut would, and kills the process: what was not
    /// synced is lost. Returns what shows it.
    ///
    /// # Errors
    /// If the file system did not end.
    pub fn cut_power(&mut self) -> Result<String, String> {
        let directory = self.member.data_dir();
        if self.storage == Storage::Ext4 {
            // EXT4_IOC_SHUTDOWN, without a flush of the journal.
            let program =
                "open(F, '<', $ARGV[0]) or die $!; my $f = pack('I', 2); ioctl(F, 0x8004587d, $f) or die $!;";
            run(Command::new("perl").args(["-e", program]).arg(directory.join("lock")))?;
            if std::fs::write(directory.join("after"), b"x").is_ok() {
                return Err(format!("{} still takes writes after its shutdown", directory.display()));
            }
        }
        self.member.kill();
        Ok("the shutdown ioctl, and EIO from then on".into())
    }

    /// Brings the file system back as it was found on the disk.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn restore_power(&mut self) -> Result<(), String> {
        match &self.mount {
            Some(mount) if self.storage == Storage::Ext4 => mount.again(),
            _ => Ok(()),
        }
    }
}

/// A file system that is mounted on a member's directory, for as long as this lives.
#[derive(Debug)]
struct Mount {
    at: PathBuf,
    image: Option<PathBuf>,
}

impl Mount {
    /// 16 MiB: a hundred times what a member of a run keeps.
    fn tmpfs(at: &Path) -> Result<Mount, String> {
        std::fs::create_dir_all(at).map_err(|e| format!("{}: {e}", at.display()))?;
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m,mode=0700", "kvd-chaos"]).arg(at))?;
        Ok(Mount { at: at.to_owned(), image: None })
    }

    fn ext4(at: &Path) -> Result<Mount, String> {
        std::fs::create_dir_all(at).map_err(|e| format!("{}: {e}", at.display()))?;
        let image = at.with_extension("ext4");
        run(Command::new("truncate").args(["-s", "64M"]).arg(&image))?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        let mount = Mount { at: at.to_owned(), image: Some(image) };
        mount.mount()?;
        Ok(mount)
    }

    fn mount(&self) -> Result<(), String> {
        match &self.image {
            Some(image) => run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&self.at)),
            None => Ok(()),
        }
    }

    fn again(&self) -> Result<(), String> {
        run(Command::new("umount").arg(&self.at))?;
        self.mount()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg(&self.at)) {
            eprintln!("left behind: {error}");
        }
    }
}

/// Runs a program that has to succeed.
///
/// # Errors
/// With the program, how it ended, and what it wrote to stderr.
pub fn run(command: &mut Command) -> Result<(), String> {
    output(command).map(drop)
}

/// As [`run`], with its output.
///
/// # Errors
/// As [`run`].
pub fn output(command: &mut Command) -> Result<Output, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    match output.status.success() {
        true => Ok(output),
        false => {
            let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(format!("{command:?}: {}: {stderr}", output.status))
        }
    }
}
