//! Who is a member, and snapshots: commands for whoever runs the cluster.

use std::time::Duration;

use kvd_kvstore::Door;
use tokio::io::AsyncWrite;

use crate::connection::Session;
use crate::errors;
use crate::parse::Request;
use crate::table::Id;

/// How long SNAPSHOT waits for the file. A large one may take longer; that is said.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);

impl<D: Door, T: AsyncWrite + Unpin + Send> Session<D, T> {
    pub(crate) async fn administrate(&mut self, id: Id, request: &Request<'_>) {
        match self.try_administrate(id, request).await {
            Ok(()) => self.link.replies.ok(),
            Err(words) => self.link.replies.error(&words),
        }
    }

    async fn try_administrate(&mut self, id: Id, request: &Request<'_>) -> Result<(), String> {
        let local = self.client.address.is_none_or(|address| address.ip().to_canonical().is_loopback());
        if !local && !self.shared.options.admin {
            return Err(
                "NOPERM this command is for connections from the member's own machine; --redis-admin \
                        lifts that"
                    .into(),
            );
        }
        let door = &self.shared.door;
        let done = match id {
            Id::Join => {
                let (address, id) = address_and_id(request)?;
                door.add_member(id, &address).await
            }
            Id::Leave => door.remove_member(member_id(request.get(1)).ok_or(BAD_ID)?).await,
            _ => door.snapshot(SNAPSHOT_TIMEOUT).await.map(drop),
        };
        done.map_err(|error| errors::words(&error))
    }
}

const BAD_ID: &str = "ERR a member id is a number from 1 to 18446744073709551615";

/// `JOIN ADDRESS ID` or `JOIN ID ADDRESS`; the address is a peer URL, or host and port of one.
fn address_and_id(request: &Request<'_>) -> Result<(String, u64), String> {
    let (first, second) = (request.get(1), request.get(2));
    let (address, id) = match (member_id(first), member_id(second)) {
        (_, Some(id)) => (first, id),
        (Some(id), None) => (second, id),
        (None, None) => return Err(BAD_ID.into()),
    };
    let address = std::str::from_utf8(address).map_err(|_| "ERR a peer address is text")?;
    let address = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    Ok((address, id))
}

fn member_id(argument: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(argument).ok().filter(|text| !text.starts_with('+'))?;
    text.parse().ok().filter(|id| *id > 0)
}
