//! What only this connection is asked, and answers at once.

use bytes::Bytes;
use kvd_kvstore::Door;
use kvd_kvstore::txn::parse_number;
use tokio::io::AsyncWrite;

use super::info::REDIS_VERSION;
use crate::connection::Session;
use crate::errors::{self, NOT_AN_INTEGER, SYNTAX};
use crate::parse::Request;
use crate::reply::Protocol;
use crate::table::{self, Id};

/// The longest name of a connection or a library, in bytes.
const NAME_BYTES: usize = 256;

const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. Are you sure \
     your configuration is correct?";
const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

impl<D: Door, T: AsyncWrite + Unpin + Send> Session<D, T> {
    /// Commands that need nothing but this connection and what this member knows of itself.
    pub(crate) fn tell(&mut self, id: Id, request: &Request<'_>) {
        if let Err(words) = self.try_tell(id, request) {
            self.link.replies.error(&words);
        }
    }

    fn try_tell(&mut self, id: Id, request: &Request<'_>) -> Result<(), String> {
        let replies = &mut self.link.replies;
        match id {
            Id::Ping => match request.len() {
                1 => replies.simple("PONG"),
                2 => replies.bulk(request.get(1)),
                _ => return Err(errors::arity("ping")),
            },
            Id::Echo => replies.bulk(request.get(1)),
            Id::Select => match parse_number(request.get(1)).and_then(|number| i32::try_from(number).ok()) {
                Some(0) => replies.ok(),
                Some(_) => return Err("ERR DB index is out of range".into()),
                None => return Err(NOT_AN_INTEGER.into()),
            },
            Id::Readonly | Id::Readwrite => {
                self.client.stale = id == Id::Readonly;
                replies.ok();
            }
            Id::Reset => {
                self.reset();
                self.link.replies.simple("RESET");
            }
            Id::Auth => {
                authenticate(request, 1, request.len() - 1)?;
                replies.ok();
            }
            Id::Hello => self.hello(request)?,
            Id::Client => self.client(request)?,
            Id::Command => self.command(request)?,
            Id::Config => self.config(request)?,
            Id::Info => self.info(request),
            Id::Role => self.role(),
            Id::Time => self.time(),
            // The others are run before they could come here.
            _ => return Err(errors::unknown_command(request)),
        }
        Ok(())
    }

    fn hello(&mut self, request: &Request<'_>) -> Result<(), String> {
        let mut protocol = self.link.replies.protocol;
        let mut name = None;
        if request.len() > 1 {
            let number = parse_number(request.get(1));
            protocol = match number.ok_or("ERR Protocol version is not an integer or out of range")? {
                2 => Protocol::Resp2,
                3 => Protocol::Resp3,
                _ => return Err("NOPROTO unsupported protocol version".into()),
            };
        }
        let mut at = 2;
        while at < request.len() {
            let option = request.get(at);
            let more = request.len() - at - 1;
            if option.eq_ignore_ascii_case(b"auth") && more >= 2 {
                authenticate(request, at + 1, 2)?;
                at += 3;
            } else if option.eq_ignore_ascii_case(b"setname") && more >= 1 {
                name = Some(checked_name(request.keep(at + 1), "Client names")?);
                at += 2;
            } else {
                return Err(format!("ERR Syntax error in HELLO option '{}'", errors::beginning(option, 128)));
            }
        }
        if let Some(name) = name {
            self.client.name = name;
        }
        self.link.replies.protocol = protocol;
        let leads = self.leads();
        let replies = &mut self.link.replies;
        replies.map(7);
        for (name, value) in [
            ("server", "kvd"),
            ("version", REDIS_VERSION),
            ("mode", "standalone"),
            ("role", if leads { "master" } else { "replica" }),
        ] {
            replies.bulk(name.as_bytes());
            replies.bulk(value.as_bytes());
        }
        replies.bulk(b"proto");
        replies.integer(protocol.number());
        replies.bulk(b"id");
        replies.integer(self.client.id as i64);
        replies.bulk(b"modules");
        replies.array(0);
        Ok(())
    }

    fn client(&mut self, request: &Request<'_>) -> Result<(), String> {
        let sub = self.subcommand("client", request)?;
        let replies = &mut self.link.replies;
        match sub {
            "id" => replies.integer(self.client.id as i64),
            "getname" => {
                let name = Some(&self.client.name[..]).filter(|name| !name.is_empty());
                replies.bulk_or_null(name);
            }
            "setname" => {
                self.client.name = checked_name(request.keep(2), "Client names")?;
                replies.ok();
            }
            "setinfo" => {
                let option = request.get(2);
                if option.eq_ignore_ascii_case(b"lib-name") {
                    self.client.library = checked_name(request.keep(3), "lib-name")?;
                } else if option.eq_ignore_ascii_case(b"lib-ver") {
                    self.client.library_version = checked_name(request.keep(3), "lib-ver")?;
                } else {
                    return Err(format!("ERR Unrecognized option '{}'", errors::beginning(option, 128)));
                }
                replies.ok();
            }
            "info" => {
                let text = self.describe_client();
                self.link.replies.verbatim(&text);
            }
            _ => self.help("client"),
        }
        Ok(())
    }

    fn describe_client(&self) -> String {
        let client = &self.client;
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let address = client.address.map(|address| address.to_string()).unwrap_or_default();
        format!(
            "id={} addr={address} laddr={} name={} db=0 flags={} resp={} lib-name={} lib-ver={}\n",
            client.id,
            self.shared.address,
            text(&client.name),
            if client.stale { "r" } else { "N" },
            self.link.replies.protocol.number(),
            text(&client.library),
            text(&client.library_version),
        )
    }

    /// The subcommand in lower case, whose arguments are as many as they should be.
    pub(super) fn subcommand(&self, name: &str, request: &Request<'_>) -> Result<&'static str, String> {
        let spec = table::find(name.as_bytes()).ok_or_else(|| errors::unknown_command(request))?;
        let sub = spec.subcommand(request.get(1));
        let sub = sub.ok_or_else(|| errors::unknown_subcommand(request, name))?;
        if !table::takes(sub.arity, request.len()) {
            return Err(errors::arity(&format!("{name}|{}", sub.name)));
        }
        Ok(sub.name)
    }

    /// What `NAME HELP` answers.
    pub(super) fn help(&mut self, name: &str) {
        let subcommands = table::find(name.as_bytes()).map_or(&[][..], |spec| spec.subcommands);
        let replies = &mut self.link.replies;
        replies.array(1 + subcommands.len() * 2);
        replies
            .simple(&format!("{} <subcommand> [<arg> [value] ...]. Subcommands are:", name.to_uppercase()));
        for sub in subcommands {
            replies.simple(&sub.name.to_uppercase());
            replies.simple(&format!("    {}.", sub.summary));
        }
    }

    /// Whether this member leads, as far as it knows.
    pub(super) fn leads(&self) -> bool {
        let status = self.shared.door.status();
        status.leader == Some(status.id)
    }
}

/// Checks the `len` arguments from `at` on, as a Redis without a password does.
fn authenticate(request: &Request<'_>, at: usize, len: usize) -> Result<(), String> {
    match len {
        1 => Err(NO_PASSWORD.into()),
        2 if request.get(at) == b"default" => Ok(()),
        2 => Err(WRONG_PASSWORD.into()),
        _ => Err(SYNTAX.into()),
    }
}

/// A name to keep: a copy, so that it does not hold on to what it came in.
fn checked_name(name: Bytes, what: &str) -> Result<Bytes, String> {
    if !name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Err(format!("ERR {what} cannot contain spaces, newlines or special characters."));
    }
    if name.len() > NAME_BYTES {
        return Err(format!("ERR {what} cannot be longer than {NAME_BYTES} bytes"));
    }
    Ok(Bytes::copy_from_slice(&name))
}
