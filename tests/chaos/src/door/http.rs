//! The HTTP door: `/v1/kv/KEY`, whose answers carry revisions.

use std::time::Duration;

use kvd_linearizability::{Action, Condition};
use kvd_tests::http::{Client, Response};

use super::{Answer, Door, Told};

/// Shorter than the 5 s after which kvd gives up, so that answers that come too late happen, too.
const TIMEOUT: Duration = Duration::from_millis(2500);

/// A client of one member's HTTP port.
#[derive(Debug)]
pub struct Http {
    client: Client,
    conditions: bool,
}

impl Http {
    /// A client of 127.0.0.1:`port`, which may be asked for conditional puts if the door has them.
    pub fn new(port: u16, conditions: bool) -> Http {
        Http { client: Client::with_timeout(port, TIMEOUT), conditions }
    }

    /// Whether a member's door has conditional puts: an older one says 501.
    pub fn has_conditions(port: u16) -> bool {
        let mut client = Client::new(port);
        // The condition cannot hold for an absent key, so nothing is written.
        let answer = client.request_with("PUT", "/v1/kv/probe", &[("If-Match", "\"1\"")], b"");
        answer.is_ok_and(|answer| answer.status == 412)
    }
}

impl Door for Http {
    fn can(&self, action: &Action) -> bool {
        match action {
            Action::Put { condition: Some(_), .. } => self.conditions,
            Action::Append { .. } | Action::Increment { .. } => false,
            _ => true,
        }
    }

    fn ask(&mut self, key: &str, action: &Action, tag: Option<u64>) -> Answer {
        let path = format!("/v1/kv/{key}");
        let stale = format!("{path}?consistency=stale");
        let tag = tag.map(|tag| format!("\"{tag}\"")).unwrap_or_default();
        let answer = match action {
            Action::Get => self.client.request("GET", &path, b""),
            Action::StaleGet => self.client.request("GET", &stale, b""),
            Action::Delete => self.client.request("DELETE", &path, b""),
            Action::Put { value, condition } => {
                let header = match condition {
                    None => None,
                    Some(Condition::Absent) => Some(("If-None-Match", "*")),
                    Some(Condition::Value(_)) => Some(("If-Match", tag.as_str())),
                };
                self.client.request_with("PUT", &path, header.as_slice(), value.as_bytes())
            }
            Action::Append { .. } | Action::Increment { .. } => {
                return Answer::Wrong("this door cannot be asked for that".into());
            }
        };
        match answer {
            Ok(answer) => meaning(action, &answer),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Answer::Nothing,
            Err(_) => Answer::Unknown,
        }
    }
}

/// The table of status codes in the documentation of `kvd-http-api`.
fn meaning(action: &Action, answer: &Response) -> Answer {
    let revision = answer.header("kvd-revision").and_then(|revision| revision.parse().ok());
    let mod_revision = answer.header("etag").and_then(|tag| tag.trim_matches('"').parse().ok());
    let told = Told { revision, ..Told::default() };
    match (answer.status, action) {
        (200, Action::Get | Action::StaleGet) => Answer::Done(Told {
            existed: Some(true),
            read: Some(answer.text()),
            revision,
            mod_revision,
            number: None,
        }),
        (404, Action::Get | Action::StaleGet | Action::Delete) if revision.is_some() => {
            Answer::Done(Told { existed: Some(false), ..told })
        }
        (204, Action::Delete) => Answer::Done(Told { existed: Some(true), ..told }),
        (204, Action::Put { .. }) => Answer::Done(told),
        (412, Action::Put { condition: Some(_), .. }) => Answer::Refused(told),
        (429 | 503 | 507, _) => Answer::Nothing,
        (504, _) => Answer::Unknown,
        (status, _) => Answer::Wrong(format!("answered with {status}: {}", answer.text().trim_end())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, headers: &[(&str, &str)]) -> Response {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Response { status, headers: headers.collect(), body: b"v".to_vec() }
    }

    #[test]
    fn statuses_mean_what_the_door_documents() {
        let put = Action::Put { value: "v".into(), condition: None };
        let found = response(200, &[("etag", "\"5\""), ("kvd-revision", "7")]);
        let Answer::Done(told) = meaning(&Action::Get, &found) else { panic!("found") };
        assert_eq!((told.existed, told.mod_revision, told.revision), (Some(true), Some(5), Some(7)));
        assert_eq!(told.read.as_deref(), Some("v"));
        let done = meaning(&put, &response(204, &[("kvd-revision", "8")]));
        assert_eq!(done, Answer::Done(Told { revision: Some(8), ..Told::default() }));
        for status in [429, 503, 507] {
            assert_eq!(meaning(&put, &response(status, &[])), Answer::Nothing);
        }
        assert_eq!(meaning(&put, &response(504, &[])), Answer::Unknown);
        // Not every 404 is that of a key.
        assert!(matches!(meaning(&Action::Get, &response(404, &[])), Answer::Wrong(_)));
        assert!(matches!(meaning(&put, &response(500, &[])), Answer::Wrong(_)));
        assert!(matches!(meaning(&put, &response(412, &[])), Answer::Wrong(_)));
    }
}
