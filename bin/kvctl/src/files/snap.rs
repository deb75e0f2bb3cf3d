//! `snap inspect` and `snap verify`: every file is read from end to end, and nothing is changed.

use std::io::{Read, Write};
use std::path::Path;

use kvd_raftpb::node::NodeState;
use kvd_snap::{Kind, Listed, SnapshotReader, State, Summary};
use kvd_vfs::Disk;
use prost::Message as _;
use serde_json::{Value, json};

use super::{Place, count, name_of, snap_directory};
use crate::Error;

/// The longest head of a body that is decoded, in bytes: members and sessions of some members take far less.
const MAX_HEAD: u32 = 64 << 20;

/// A file, and what is in it.
struct Found {
    listed: Listed,
    state: Result<State, kvd_snap::Error>,
    /// What kvd's node put in front of the store's bytes.
    node: Option<NodeState>,
}

pub(crate) fn run(disk: &Disk, place: &Place, inspect: bool, out: &mut dyn Write) -> Result<(), Error> {
    let files = if place.path.is_dir() {
        kvd_snap::list(disk, &snap_directory(&place.path)?)?
    } else {
        vec![single(disk, &place.path)?]
    };
    let (mut damaged, mut unreadable, mut objects) = (0, 0, Vec::new());
    for listed in files {
        let state = listed.check(disk);
        let mut found = Found { listed, state, node: None };
        match &found.state {
            Ok(State::Gone) => continue,
            Ok(State::Corrupt(_)) => damaged += 1,
            Ok(State::Good(_)) if inspect => found.node = node_state(disk, &found.listed.path),
            // One that was set aside is damage that is known, unless it is what was asked about.
            Ok(State::Broken(Some(_))) if place.path.is_file() => damaged += 1,
            Ok(_) => {}
            Err(_) => unreadable += 1,
        }
        match (place.output.is_json(), inspect) {
            (true, _) => objects.push(found.json(inspect)),
            (false, false) => writeln!(out, "{}  {}", name_of(&found.listed.path), found.words())?,
            (false, true) => found.text(out)?,
        }
    }
    if place.output.is_json() {
        let verdict = match (damaged, unreadable) {
            (0, 0) => "good",
            (0, _) => "unreadable",
            _ => "damaged",
        };
        writeln!(out, "{}", json!({ "files": objects, "verdict": verdict }))?;
    }
    out.flush()?;
    match (damaged, unreadable) {
        (0, 0) => Ok(()),
        (0, n) => Err(Error::UnreadableSnapshots(n)),
        (n, _) => Err(Error::DamagedSnapshots(n)),
    }
}

/// One file, by its path. Its name need not be a snapshot's: then what it holds says which one it is.
fn single(disk: &Disk, path: &Path) -> Result<Listed, Error> {
    let bytes =
        std::fs::metadata(path).map_err(|source| Error::Read { path: path.to_owned(), source })?.len();
    let (kind, term, index) = match path.file_name().and_then(|name| name.to_str()).and_then(kvd_snap::parse)
    {
        Some(parsed) => parsed,
        None => match SnapshotReader::open_file(disk, path) {
            Ok(reader) => (Kind::Snapshot, reader.metadata().term, reader.metadata().index),
            Err(_) => (Kind::Snapshot, 0, 0),
        },
    };
    Ok(Listed { path: path.to_owned(), kind, term, index, bytes })
}

/// The head of a body that kvd wrote: a length of four bytes, then the message. `None` if it is none.
fn node_state(disk: &Disk, path: &Path) -> Option<NodeState> {
    let mut reader = SnapshotReader::open_file(disk, path).ok()?;
    let mut len = [0; 4];
    reader.read_exact(&mut len).ok()?;
    let len = u32::from_le_bytes(len);
    if len > MAX_HEAD || u64::from(len) + 4 > reader.len() {
        return None;
    }
    let mut head = Vec::new();
    reader.take(u64::from(len)).read_to_end(&mut head).ok()?;
    NodeState::decode(&*head).ok().filter(|node| node.membership.is_some())
}

impl Found {
    fn name(&self) -> &'static str {
        match &self.state {
            Ok(State::Good(_)) => "good",
            Ok(State::Corrupt(_)) => "corrupt",
            Ok(State::Broken(_)) => "broken",
            Ok(State::Temporary) => "temporary",
            Ok(State::Gone) => "gone",
            Err(_) => "unreadable",
        }
    }

    fn reason(&self) -> Option<String> {
        match &self.state {
            Ok(State::Corrupt(error) | State::Broken(Some(error))) | Err(error) => Some(error.to_string()),
            Ok(_) => None,
        }
    }

    /// A line without the file's name.
    fn words(&self) -> String {
        match &self.state {
            Ok(State::Good(summary)) => format!("good, {}", size(summary)),
            Ok(State::Corrupt(error)) => format!("corrupt: {error}"),
            Ok(State::Broken(Some(error))) => format!("set aside as broken: {error}"),
            Ok(State::Broken(None)) => "set aside as broken, but nothing is wrong with it now".to_owned(),
            Ok(State::Temporary) => {
                format!(
                    "temporary, {} so far: being written, or left by a crash",
                    count(self.listed.bytes, "byte")
                )
            }
            Ok(State::Gone) => "gone".to_owned(),
            Err(error) => format!("unreadable: {error}"),
        }
    }

    fn text(&self, out: &mut dyn Write) -> Result<(), Error> {
        writeln!(out, "{}", name_of(&self.listed.path))?;
        writeln!(out, "  state      {}", self.words())?;
        let Ok(State::Good(summary)) = &self.state else { return Ok(()) };
        let metadata = &summary.metadata;
        writeln!(out, "  covers     index {}, term {}", metadata.index, metadata.term)?;
        let conf = metadata.get_conf_state();
        writeln!(out, "  voters     {}", ids(&conf.voters))?;
        writeln!(out, "  learners   {}", ids(&conf.learners))?;
        let Some(node) = &self.node else { return Ok(()) };
        let membership = node.membership.clone().unwrap_or_default();
        writeln!(out, "  cluster    {:016x}", membership.cluster_id)?;
        for member in &membership.members {
            let learner = if member.learner { ", a learner" } else { "" };
            let urls = member.peer_urls.join(" ");
            writeln!(out, "  member     {} at {urls}, boot {}{learner}", member.id, member.boot)?;
        }
        writeln!(out, "  removed    {}", ids(&membership.removed))?;
        for session in &node.sessions {
            writeln!(
                out,
                "  session    member {} boot {}, {} from {}",
                session.member,
                session.boot,
                count(session.results.len() as u64, "result"),
                session.floor
            )?;
        }
        Ok(())
    }

    fn json(&self, inspect: bool) -> Value {
        let mut object = json!({
            "file": name_of(&self.listed.path),
            "term": self.listed.term,
            "index": self.listed.index,
            "bytes": self.listed.bytes,
            "state": self.name(),
            "reason": self.reason(),
        });
        if let Ok(State::Good(summary)) = &self.state {
            object["chunks"] = summary.chunks.into();
            object["body_bytes"] = summary.body_bytes.into();
            object["version"] = summary.version.into();
            if inspect {
                let conf = summary.metadata.get_conf_state();
                object["voters"] = json!(conf.voters);
                object["learners"] = json!(conf.learners);
                object["node"] = self.node.as_ref().map(node_json).into();
            }
        }
        object
    }
}

fn node_json(node: &NodeState) -> Value {
    let membership = node.membership.clone().unwrap_or_default();
    let members: Vec<Value> = membership
        .members
        .iter()
        .map(|member| {
            json!({
                "id": member.id,
                "peer_urls": member.peer_urls,
                "client_urls": member.client_urls,
                "learner": member.learner,
                "boot": member.boot,
            })
        })
        .collect();
    let sessions: Vec<Value> = node
        .sessions
        .iter()
        .map(|session| {
            json!({
                "member": session.member,
                "boot": session.boot,
                "floor": session.floor,
                "results": session.results.len(),
            })
        })
        .collect();
    json!({
        "cluster_id": format!("{:016x}", membership.cluster_id),
        "members": members,
        "removed": membership.removed,
        "sessions": sessions,
    })
}

fn size(summary: &Summary) -> String {
    format!("{} in {}", count(summary.body_bytes, "byte"), count(summary.chunks, "chunk"))
}

fn ids(ids: &[u64]) -> String {
    match ids {
        [] => "none".to_owned(),
        ids => ids.iter().map(u64::to_string).collect::<Vec<_>>().join(" "),
    }
}
