//! COMMAND and CONFIG.

use kvd_kvstore::Door;
use tokio::io::AsyncWrite;

use crate::connection::Session;
use crate::glob;
use crate::parse::Request;
use crate::reply::Replies;
use crate::table::{self, COMMANDS, Spec};

impl<D: Door, T: AsyncWrite + Unpin + Send> Session<D, T> {
    pub(super) fn command(&mut self, request: &Request<'_>) -> Result<(), String> {
        if request.len() == 1 {
            self.link.replies.array(COMMANDS.len());
            COMMANDS.iter().for_each(|spec| describe(spec, &mut self.link.replies));
            return Ok(());
        }
        let sub = self.subcommand("command", request)?;
        let replies = &mut self.link.replies;
        let named = || request.iter().skip(2).map(table::find);
        match sub {
            "count" => replies.count(COMMANDS.len()),
            "list" => {
                replies.array(COMMANDS.len());
                COMMANDS.iter().for_each(|spec| replies.bulk(spec.name.as_bytes()));
            }
            "info" if request.len() == 2 => {
                replies.array(COMMANDS.len());
                COMMANDS.iter().for_each(|spec| describe(spec, replies));
            }
            "info" => {
                replies.array(named().len());
                named().for_each(|spec| match spec {
                    Some(spec) => describe(spec, replies),
                    None => replies.null_array(),
                });
            }
            "docs" => {
                let specs: Vec<&Spec> =
                    if request.len() == 2 { COMMANDS.iter().collect() } else { named().flatten().collect() };
                replies.map(specs.len());
                specs.into_iter().for_each(|spec| document(spec, replies));
            }
            "getkeys" => keys_of(request, replies)?,
            _ => self.help("command"),
        }
        Ok(())
    }

    pub(super) fn config(&mut self, request: &Request<'_>) -> Result<(), String> {
        if self.subcommand("config", request)? == "help" {
            self.help("config");
            return Ok(());
        }
        let options = &self.shared.options;
        let parameters = [
            ("appendfsync", "always".to_owned()),
            ("appendonly", "yes".to_owned()),
            ("bind", self.shared.address.ip().to_string()),
            ("databases", "1".to_owned()),
            ("maxclients", options.connections.to_string()),
            ("maxmemory", "0".to_owned()),
            ("maxmemory-policy", "noeviction".to_owned()),
            ("port", self.shared.address.port().to_string()),
            ("proto-max-bulk-len", self.shared.door.limits().value_bytes.to_string()),
            ("save", String::new()),
            ("timeout", "0".to_owned()),
        ];
        let wanted = |name: &str| {
            let matches =
                |pattern: &[u8]| glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes(), &mut 0);
            // Longer than any name: a pattern that takes long.
            request.iter().skip(2).any(|pattern| pattern.len() <= 128 && matches(pattern))
        };
        let found: Vec<_> = parameters.into_iter().filter(|(name, _)| wanted(name)).collect();
        let replies = &mut self.link.replies;
        replies.map(found.len());
        for (name, value) in found {
            replies.bulk(name.as_bytes());
            replies.bulk(value.as_bytes());
        }
        Ok(())
    }
}

/// What `COMMAND INFO` says of a command, in Redis 7's ten parts; those on access lists, tips, and the newer form of the
/// places of keys are empty.
fn describe(spec: &Spec, replies: &mut Replies) {
    let head = |name: &str, arity: i64, keys: (i64, i64, i64), replies: &mut Replies| {
        replies.array(10);
        replies.bulk(name.as_bytes());
        replies.integer(arity);
        replies.set(spec.flags.len());
        spec.flags.iter().for_each(|flag| replies.simple(flag.name()));
        [keys.0, keys.1, keys.2].into_iter().for_each(|number| replies.integer(number));
        replies.set(0);
        replies.array(0);
        replies.array(0);
    };
    head(spec.name, spec.arity, spec.keys, replies);
    replies.array(spec.subcommands.len());
    for sub in spec.subcommands {
        head(&format!("{}|{}", spec.name, sub.name), sub.arity, (0, 0, 0), replies);
        replies.array(0);
    }
}

/// What `COMMAND DOCS` says of a command.
fn document(spec: &Spec, replies: &mut Replies) {
    let about = |name: &str, summary: &str, more: usize, replies: &mut Replies| {
        replies.bulk(name.as_bytes());
        replies.map(3 + more);
        for (field, value) in [("summary", summary), ("since", spec.since), ("group", spec.group)] {
            replies.bulk(field.as_bytes());
            replies.bulk(value.as_bytes());
        }
    };
    about(spec.name, spec.summary, usize::from(!spec.subcommands.is_empty()), replies);
    if !spec.subcommands.is_empty() {
        replies.bulk(b"subcommands");
        replies.map(spec.subcommands.len());
        for sub in spec.subcommands {
            about(&format!("{}|{}", spec.name, sub.name), sub.summary, 0, replies);
        }
    }
}

fn keys_of(request: &Request<'_>, replies: &mut Replies) -> Result<(), String> {
    let len = request.len() - 2;
    let spec = table::find(request.get(2)).ok_or("ERR Invalid command specified")?;
    if spec.keys.2 == 0 {
        return Err("ERR The command has no key arguments".into());
    }
    if !table::takes(spec.arity, len) {
        return Err("ERR Invalid number of arguments specified for command".into());
    }
    replies.array(spec.key_places(len).count());
    spec.key_places(len).for_each(|place| replies.bulk(request.get(place + 2)));
    Ok(())
}
