//! One member: its ports, its directory, and at most one process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::http::{Client, Response};
use crate::ports::Port;
use crate::resp::Connection;
use crate::{PATIENCE, kvd, wait_until};

/// A member of a [`crate::Cluster`]: runs `kvd` in the cluster's directory, with the data directory that kvd chooses.
///
/// Dropping it kills the process with SIGKILL and waits for it.
#[derive(Debug)]
pub struct Member {
    id: u64,
    client_port: Port,
    peer_port: Port,
    redis_port: Port,
    directory: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    program: Option<PathBuf>,
    through_environment: bool,
    child: Option<Child>,
}

impl Member {
    /// A member that does not run yet. Its flags are set by [`Member::set_args`].
    pub fn new(id: u64, directory: &Path) -> Member {
        Member {
            id,
            client_port: Port::reserve(),
            peer_port: Port::reserve(),
            redis_port: Port::reserve(),
            directory: directory.to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            program: None,
            through_environment: false,
            child: None,
        }
    }

    /// Replaces the flags given beside `--id` and `--port`.
    pub fn set_args(&mut self, args: Vec<String>) {
        self.args = args;
    }

    /// Replaces the environment variables that its processes are given from now on.
    pub fn set_env(&mut self, env: &[(&str, &str)]) {
        self.env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    }

    /// Runs this program from now on, in place of [`kvd`].
    pub fn set_program(&mut self, program: &Path) {
        self.program = Some(program.to_owned());
    }

    /// Moves the peer listener to another port from the next start on; the other members are told of it then.
    pub fn move_to_another_peer_port(&mut self) {
        self.peer_port = Port::reserve();
        self.args.extend(["--advertise-peer".to_owned(), self.peer_port.url()]);
    }

    /// Gives every flag as its `KVD_*` variable from now on, and none on the command line.
    pub fn configure_through_environment(&mut self) {
        self.through_environment = true;
    }

    /// The member's id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where peers reach it.
    pub fn peer_url(&self) -> String {
        self.peer_port.url()
    }

    /// The port that clients use.
    pub fn client_port(&self) -> u16 {
        self.client_port.number()
    }

    /// The port that clients use who speak Redis's protocol.
    pub fn redis_port(&self) -> u16 {
        self.redis_port.number()
    }

    /// A connection to that port.
    pub fn redis(&self) -> Connection {
        Connection::open(self.redis_port()).unwrap_or_else(|e| panic!("member {}: {e}", self.id))
    }

    /// Bytes of memory that the process holds.
    pub fn resident_bytes(&self) -> u64 {
        let child = self.child.as_ref().unwrap_or_else(|| panic!("member {} does not run", self.id));
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
        let status = status.expect("a child has a status");
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        kib.and_then(|kib| kib.parse::<u64>().ok()).expect("a number of KiB") << 10
    }

    /// Where it keeps its data: kvd's own choice, `./kvd-ID`.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.join(format!("kvd-{}", self.id))
    }

    /// What the processes of this member have written to stdout and stderr.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join(format!("{}.log", self.id))
    }

    /// Starts the process and does not wait for anything.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "member {} runs already", self.id);
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).expect("a log file");
        let mut args = vec!["--id".to_owned(), self.id.to_string()];
        args.extend(["--port".to_owned(), self.client_port().to_string()]);
        args.extend(["--listen-redis".to_owned(), format!("127.0.0.1:{}", self.redis_port())]);
        args.extend(self.args.iter().cloned());
        let mut command = command_of(self.program.as_deref().unwrap_or_else(|| kvd()), &self.directory);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if self.through_environment {
            command.envs(variables(&args));
        } else {
            command.args(args);
        }
        let child = command
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .spawn()
            .expect("kvd can be started");
        self.child = Some(child);
    }

    /// Starts the process and waits until it is ready.
    pub fn start(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    /// Waits until `/readyz` answers 200; panics at once if the process has ended.
    pub fn wait_ready(&mut self) {
        let what = format!("member {} is ready", self.id);
        wait_until(&what, PATIENCE, || {
            if let Some(status) = self.try_exit() {
                panic!("member {} ended with {status} instead of getting ready", self.id);
            }
            let answer = self.client().request("GET", "/readyz", b"").ok()?;
            (answer.status == 200).then_some(())
        });
    }

    /// The id of the process that was started last, unless its end was waited for.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The exit status, if the process has ended.
    pub fn try_exit(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().expect("a child can be waited for")
    }

    /// Whether a process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.is_some() && self.try_exit().is_none()
    }

    /// Stops the process where it is, until [`Member::resume`]: it keeps its locks and changes nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let child = self.child.as_ref().expect("a running member");
        let status = format!("/proc/{}/status", child.id());
        crate::wait_until("a paused process has stopped", crate::PATIENCE, || {
            let status = std::fs::read_to_string(&status).expect("a child has a status");
            status.contains("\nState:\tT").then_some(())
        });
    }

    /// Lets a paused process go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap_or_else(|| panic!("member {} does not run", self.id));
        kill_process(Pid::from_child(child), signal)
            .expect("a child that was not waited for can be signalled");
    }

    /// Waits until the process ends by itself.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let what = format!("member {} ends", self.id);
        let status = wait_until(&what, PATIENCE, || self.try_exit());
        self.child = None;
        status
    }

    /// SIGTERM, and waits for the end, which must be a clean one.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_exit();
        assert!(status.success(), "member {} ended with {status} on SIGTERM", self.id);
    }

    /// SIGKILL, and waits for the end. Does nothing if no process runs.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child that was not waited for can be killed");
            child.wait().expect("a killed child can be waited for");
        }
    }

    /// A client with a connection of its own.
    pub fn client(&self) -> Client {
        Client::new(self.client_port())
    }

    /// One request on a connection of its own, which must be answered.
    pub fn request(&self, method: &str, path: &str, body: impl AsRef<[u8]>) -> Response {
        let begin = Instant::now();
        self.client().request(method, path, body.as_ref()).unwrap_or_else(|e| {
            panic!("{method} {path} at member {}, after {:?}: {e}", self.id, begin.elapsed())
        })
    }

    /// Writes a key; the write must be acknowledged.
    pub fn put(&self, key: &str, value: impl AsRef<[u8]>) {
        let answer = self.request("PUT", &format!("/{key}"), value);
        assert_eq!(answer.status, 204, "PUT {key} at member {}: {}", self.id, answer.text());
    }

    /// Reads a key linearizably; `None` if it is absent.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let answer = self.request("GET", &format!("/{key}"), b"");
        match answer.status {
            200 => Some(answer.body),
            404 => None,
            status => panic!("GET {key} at member {}: {status} {}", self.id, answer.text()),
        }
    }

    /// The value of a metric without labels, or the sum over its labels; `None` if there is no such series.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let answer = self.client().request("GET", "/metrics", b"").ok()?;
        sum_of_series(&answer.text(), name)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Adds up the series of one name in Prometheus's text format.
fn sum_of_series(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let rest = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once('}')?.1,
            None => rest,
        };
        rest.strip_prefix(' ')?.split(' ').next()?.parse::<f64>().ok()
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

/// The variables that stand for flags: `--tick-ms 50` is `KVD_TICK_MS=50`, a flag without a value is `true`.
fn variables(args: &[String]) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = Vec::new();
    for arg in args {
        match (arg.strip_prefix("--"), variables.last_mut()) {
            (Some(flag), _) => {
                let name = flag.to_ascii_uppercase().replace('-', "_");
                variables.push((format!("KVD_{name}"), "true".to_owned()));
            }
            (None, Some((_, value))) => value.clone_from(arg),
            (None, None) => panic!("{arg:?} is no flag"),
        }
    }
    variables
}

/// `kvd` in a directory, without any KVD_* variable of the caller's environment.
pub fn command(directory: &Path) -> Command {
    command_of(kvd(), directory)
}

/// A program in a directory, without any KVD_* variable of the caller's environment.
fn command_of(program: &Path, directory: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"KVD_") {
            command.env_remove(&name);
        }
    }
    command.current_dir(directory).stdin(Stdio::null());
    command
}

/// How a process that should not have started ended.
#[derive(Debug)]
pub struct Refused {
    /// Exit code; never 0.
    pub code: i32,
    /// All that it wrote to stderr.
    pub stderr: String,
}

/// Runs `kvd` with flags that it must refuse, in `directory`.
///
/// # Panics
/// If the process ends with 0 or by a signal, or is still running after [`PATIENCE`].
pub fn refused(directory: &Path, args: &[&str]) -> Refused {
    refused_with_env(directory, args, &[])
}

/// As [`refused`], with environment variables.
pub fn refused_with_env(directory: &Path, args: &[&str], env: &[(&str, &str)]) -> Refused {
    let mut child = command(directory)
        .args(args)
        .envs(env.iter().copied())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kvd can be started");
    let mut pipe = child.stderr.take().expect("stderr is piped");
    let reader = std::thread::spawn(move || {
        let mut stderr = Vec::new();
        pipe.read_to_end(&mut stderr).map(|_| String::from_utf8_lossy(&stderr).into_owned())
    });
    let begin = Instant::now();
    let status = loop {
        match child.try_wait().expect("a child can be waited for") {
            Some(status) => break Some(status),
            None if begin.elapsed() > PATIENCE => break None,
            None => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    };
    if status.is_none() {
        child.kill().expect("a child that was not waited for can be killed");
        child.wait().expect("a killed child can be waited for");
    }
    let stderr = reader.join().expect("the reader does not panic").expect("a pipe can be read");
    let Some(status) = status else { panic!("kvd {args:?} still ran after {PATIENCE:?}:\n{stderr}") };
    let code = status.code().unwrap_or_else(|| panic!("kvd {args:?} died of {status}:\n{stderr}"));
    assert_ne!(code, 0, "kvd {args:?} ended with 0:\n{stderr}");
    Refused { code, stderr }
}

/// Every file below a directory with its bytes, every directory with `None`; empty if there is no such directory.
pub fn directory_contents(directory: &Path) -> BTreeMap<OsString, Option<Vec<u8>>> {
    fn walk(directory: &Path, into: &mut BTreeMap<OsString, Option<Vec<u8>>>) {
        let Ok(names) = std::fs::read_dir(directory) else { return };
        for name in names {
            let path = name.expect("a directory entry").path();
            let bytes = if path.is_dir() {
                walk(&path, into);
                None
            } else {
                let mut bytes = Vec::new();
                File::open(&path).and_then(|mut f| f.read_to_end(&mut bytes)).expect("a readable file");
                Some(bytes)
            };
            into.insert(path.into_os_string(), bytes);
        }
    }
    let mut contents = BTreeMap::new();
    walk(directory, &mut contents);
    contents
}

#[cfg(test)]
mod tests {
    use super::{sum_of_series, variables};

    #[test]
    fn every_flag_has_its_variable() {
        let args = ["--tick-ms", "50", "--join", "--id", "1"].map(str::to_owned);
        let wanted = [("KVD_TICK_MS", "50"), ("KVD_JOIN", "true"), ("KVD_ID", "1")];
        assert_eq!(variables(&args), wanted.map(|(n, v)| (n.to_owned(), v.to_owned())));
    }

    #[test]
    fn series_are_found_by_their_whole_name() {
        let text = "# TYPE a gauge\na 1\na_b 5\nc{x=\"} 9\"} 2 1700000000\nc{x=\"y\"} 3.5\n";
        assert_eq!(sum_of_series(text, "a"), Some(1.0));
        assert_eq!(sum_of_series(text, "c"), Some(5.5));
        assert_eq!(sum_of_series(text, "b"), None);
    }
}
