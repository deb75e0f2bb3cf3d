//! `member`, `leader` and `status`: the cluster, through `/v1/members`, `/v1/leader` and `/v1/status` of its members.
//!
//! Any member takes any of it. `member list` asks the leader a second time if another one answered, for only the leader
//! knows how far the others are. `status` asks every member of the list, at the client URL that the list has for it; if no
//! endpoint gives the list, it asks the endpoints.

use std::io::Write;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::commands::ask;
use crate::http::encode_path;
use crate::{Endpoint, Error};

/// `member`.
#[derive(Debug, Clone, Subcommand)]
pub enum Member {
    /// List the members
    List {
        /// How to print it
        #[command(flatten)]
        output: Output,
    },
    /// Add members as learners, each as ID=PEER_URL; they vote once they have caught up
    Add {
        /// The new members; several peer URLs of one are separated by commas
        #[arg(required = true, value_name = "ID=PEER_URL", value_parser = joiner)]
        members: Vec<Joiner>,
        /// Common to all changes
        #[command(flatten)]
        how: How,
    },
    /// Remove members for ever
    Remove {
        /// Their ids
        #[arg(required = true, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        ids: Vec<u64>,
        /// Common to all changes
        #[command(flatten)]
        how: How,
    },
    /// Make learners vote, which they do by themselves once they have caught up
    Promote {
        /// Their ids
        #[arg(required = true, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        ids: Vec<u64>,
        /// Common to all changes
        #[command(flatten)]
        how: How,
    },
    /// Add, promote and remove at once: all of it happens, or nothing
    Change {
        /// A member to add
        #[arg(long, value_name = "ID=PEER_URL", value_parser = joiner)]
        add: Vec<Joiner>,
        /// A learner that is to vote
        #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        promote: Vec<u64>,
        /// A member to remove
        #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        remove: Vec<u64>,
        /// Common to all changes
        #[command(flatten)]
        how: How,
    },
}

/// `leader`.
#[derive(Debug, Clone, Subcommand)]
pub enum Leader {
    /// Make a member lead, or whoever has the longest log
    Transfer {
        /// Its id
        #[arg(value_parser = clap::value_parser!(u64).range(1..))]
        id: Option<u64>,
        /// How to print it
        #[command(flatten)]
        output: Output,
    },
}

/// How a change is made and its outcome is printed.
#[derive(Debug, Clone, Args)]
pub struct How {
    /// Make it although the leader finds it unsafe, for this reason; every member logs the reason
    #[arg(long, value_name = "REASON")]
    pub force: Option<String>,
    /// How to print it
    #[command(flatten)]
    pub output: Output,
}

/// How to print something.
#[derive(Debug, Clone, Copy, Args)]
pub struct Output {
    /// As a table for readers, or as JSON for programs
    #[arg(short = 'w', long = "write-out", value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

impl Output {
    /// Whether it is for programs.
    #[must_use]
    pub fn is_json(self) -> bool {
        self.format == Format::Json
    }
}

/// See [`Output`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns, or lines
    Table,
    /// One JSON document
    Json,
}

/// A member that is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joiner {
    /// Its id.
    pub id: u64,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
}

fn joiner(text: &str) -> Result<Joiner, String> {
    let form = || "a new member is ID=PEER_URL, such as 4=http://10.0.0.4:9021".to_owned();
    let (id, urls) = text.split_once('=').ok_or_else(form)?;
    let id = id.parse().ok().filter(|id| *id != 0).ok_or_else(form)?;
    if urls.is_empty() {
        return Err(form());
    }
    Ok(Joiner { id, peer_urls: urls.split(',').map(str::to_owned).collect() })
}

/// `member ...`.
pub(crate) async fn member(
    endpoints: &[Endpoint],
    command: Member,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let (add, promote, remove, how) = match command {
        Member::List { output } => return list(endpoints, output.format, out).await,
        Member::Add { members, how } => (members, Vec::new(), Vec::new(), how),
        Member::Promote { ids, how } => (Vec::new(), ids, Vec::new(), how),
        Member::Remove { ids, how } => (Vec::new(), Vec::new(), ids, how),
        Member::Change { add, promote, remove, how } => (add, promote, remove, how),
    };
    let one = |change: &str, id: u64| json!({ "change": change, "id": id.to_string() });
    let mut changes = Vec::new();
    for Joiner { id, peer_urls } in add {
        let mut change = one("add", id);
        change["peer_urls"] = peer_urls.into();
        changes.push(change);
    }
    changes.extend(promote.into_iter().map(|id| one("promote", id)));
    changes.extend(remove.into_iter().map(|id| one("remove", id)));
    let force = how.force.map(|reason| format!("?force={}", &encode_path(&reason)[1..])).unwrap_or_default();
    let body = Value::from(changes).to_string();
    let answer = post(endpoints, &format!("/v1/members{force}"), body.as_bytes()).await?;
    match how.output.format {
        Format::Json => writeln!(out, "{answer}")?,
        Format::Table => match answer["index"].as_u64() {
            Some(index) => writeln!(out, "done, at index {index}")?,
            None => writeln!(out, "it was so already")?,
        },
    }
    Ok(())
}

/// `leader ...`.
pub(crate) async fn leader(
    endpoints: &[Endpoint],
    command: Leader,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let Leader::Transfer { id, output } = command;
    let body = id.map(|id| json!({ "id": id.to_string() }).to_string()).unwrap_or_default();
    let answer = post(endpoints, "/v1/leader", body.as_bytes()).await?;
    match output.format {
        Format::Json => writeln!(out, "{answer}")?,
        Format::Table => writeln!(out, "member {} leads", text(&answer["leader"]))?,
    }
    Ok(())
}

async fn list(endpoints: &[Endpoint], format: Format, out: &mut dyn Write) -> Result<(), Error> {
    let mut list = get(endpoints, "/v1/members").await?;
    let leader = members(&list).iter().find(|member| member["id"] == list["leader"]);
    let asked_another = members(&list).iter().all(|member| member["progress"].is_null());
    if let Some(url) = leader.and_then(url_of).filter(|_| asked_another)
        && let Ok(of_leader) = get(&[url], "/v1/members").await
    {
        list = of_leader;
    }
    if format == Format::Json {
        writeln!(out, "{list}")?;
        return Ok(());
    }
    let mut rows = vec![["ID", "ROLE", "PEER URLS", "CLIENT URLS", "PROGRESS"].map(str::to_owned)];
    for member in members(&list) {
        let leads = if member["id"] == list["leader"] { ", leads" } else { "" };
        rows.push([
            text(&member["id"]),
            format!("{}{leads}", text(&member["role"])),
            urls(&member["peer_urls"]),
            urls(&member["client_urls"]),
            progress(&member["progress"]),
        ]);
    }
    table(&rows, out)?;
    let removed = list["removed"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !removed.is_empty() {
        let ids: Vec<String> = removed.iter().map(text).collect();
        writeln!(out, "removed: {}", ids.join(" "))?;
    }
    Ok(())
}

/// In a few words, what the leader knows of a member.
fn progress(progress: &Value) -> String {
    if progress.is_null() {
        return String::new();
    }
    let matched = &progress["matched"];
    let silent = if progress["active"] == true { "" } else { ", silent" };
    match &progress["catch_up"] {
        Value::Null => format!("has {matched}{silent}"),
        catch_up if catch_up["ready"] == true => format!("has {matched}, caught up{silent}"),
        catch_up => format!("has {matched} of {}, round {}{silent}", catch_up["target"], catch_up["round"]),
    }
}

/// `status`: one line a member.
pub(crate) async fn status(endpoints: &[Endpoint], format: Format, out: &mut dyn Write) -> Result<(), Error> {
    let list = get(endpoints, "/v1/members?consistency=stale").await.ok();
    let known = list.as_ref().map(members).filter(|members| !members.is_empty());
    let targets: Vec<(String, Option<Endpoint>)> = match known {
        Some(members) => members.iter().map(|member| (text(&member["id"]), url_of(member))).collect(),
        None => endpoints.iter().map(|endpoint| (String::new(), Some(endpoint.clone()))).collect(),
    };
    let mut all = Vec::new();
    let mut not_ready = 0;
    for (id, endpoint) in targets {
        let mut one = one_status(endpoint.as_ref()).await;
        if one["id"].is_null() {
            one["id"] = id.into();
        }
        not_ready += usize::from(one["ready"] != true);
        all.push(one);
    }
    match format {
        Format::Json => writeln!(out, "{}", Value::from(all))?,
        Format::Table => {
            let names = ["ID", "ENDPOINT", "ROLE", "TERM", "COMMIT", "APPLIED", "REVISION", "KEYS", "READY"];
            let mut rows = vec![names.map(str::to_owned)];
            rows.extend(all.iter().map(|one| {
                let ready = if one["ready"] == true { "yes".to_owned() } else { text(&one["reason"]) };
                let [id, endpoint, role, term, commit, applied, revision, keys] =
                    ["id", "endpoint", "role", "term", "commit", "applied", "revision", "keys"]
                        .map(|name| text(&one[name]));
                [id, endpoint, role, term, commit, applied, revision, keys, ready]
            }));
            table(&rows, out)?;
        }
    }
    if not_ready == 0 { Ok(()) } else { Err(Error::NotReady(not_ready)) }
}

/// A member's status, and whether it is ready or why not.
async fn one_status(endpoint: Option<&Endpoint>) -> Value {
    let Some(endpoint) = endpoint else {
        return json!({ "ready": false, "reason": "the member list has no client URL for it" });
    };
    let one = std::slice::from_ref(endpoint);
    let mut status = match get(one, "/v1/status").await {
        Ok(status) if status.is_object() => status,
        Ok(_) => json!({}),
        Err(error) => json!({ "reason": error.to_string() }),
    };
    match ask(one, "GET", "/readyz", b"").await {
        Ok((_, 200, _)) => status["ready"] = true.into(),
        Ok((_, _, body)) => {
            status["ready"] = false.into();
            status["reason"] = String::from_utf8_lossy(&body).trim().into();
        }
        Err(error) => {
            status["ready"] = false.into();
            status["reason"] = error.to_string().into();
        }
    }
    status["endpoint"] = endpoint.to_string().into();
    status
}

async fn get(endpoints: &[Endpoint], path: &str) -> Result<Value, Error> {
    document(ask(endpoints, "GET", path, b"").await?)
}

async fn post(endpoints: &[Endpoint], path: &str, body: &[u8]) -> Result<Value, Error> {
    document(ask(endpoints, "POST", path, body).await?)
}

fn document((endpoint, status, body): (Endpoint, u16, Vec<u8>)) -> Result<Value, Error> {
    match (status, serde_json::from_slice(&body)) {
        (200, Ok(document)) => Ok(document),
        (200, Err(_)) => Err(Error::NotUnderstood { endpoint }),
        _ => Err(Error::Status { endpoint, status, body }),
    }
}

fn members(list: &Value) -> &[Value] {
    list["members"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The first client URL of a member that this client can use.
fn url_of(member: &Value) -> Option<Endpoint> {
    let urls = member["client_urls"].as_array()?;
    urls.iter().filter_map(Value::as_str).find_map(|url| url.parse().ok())
}

fn urls(value: &Value) -> String {
    let urls = value.as_array().map(Vec::as_slice).unwrap_or_default();
    urls.iter().map(text).collect::<Vec<_>>().join(" ")
}

/// A value as a cell: text without quotes, nothing for null.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Rows in columns that are as wide as their widest cell.
fn table<const N: usize>(rows: &[[String; N]], out: &mut dyn Write) -> std::io::Result<()> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_member_is_an_id_and_its_urls() {
        let joins = |id, urls: &[&str]| {
            Ok(Joiner { id, peer_urls: urls.iter().map(|url| url.to_string()).collect() })
        };
        assert_eq!(joiner("4=http://h:1"), joins(4, &["http://h:1"]));
        assert_eq!(
            joiner("18446744073709551615=http://h:1,http://i:1"),
            joins(u64::MAX, &["http://h:1", "http://i:1"])
        );
        for bad in ["", "4", "4=", "=http://h:1", "0=http://h:1", "x=http://h:1", "-1=http://h:1"] {
            assert!(joiner(bad).is_err(), "{bad}");
        }
    }
}
