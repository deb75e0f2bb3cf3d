//! A file system that has no room left.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use kvd_tests::wait_until;

use super::Fault;
use crate::cluster::{Cluster, PATIENCE};

struct Full {
    id: u64,
    ballast: PathBuf,
    log: usize,
}

/// Fills what is left with a file of our own.
pub(super) fn fill(cluster: &mut Cluster, victims: &[u64]) -> Result<Box<dyn Fault>, String> {
    let id = victims[0];
    let member = &cluster.slot_mut(id).member;
    let ballast = member.data_dir().join("ballast");
    let log = member.log().len();
    let error = |e: std::io::Error| format!("{}: {e}", ballast.display());
    let mut file = File::create(&ballast).map_err(error)?;
    for piece in [1 << 20, 4096, 1] {
        loop {
            match file.write_all(&vec![1; piece]) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::StorageFull => break,
                Err(e) => return Err(error(e)),
            }
        }
    }
    Ok(Box::new(Full { id, ballast, log }))
}

impl Fault for Full {
    fn end(self: Box<Self>, cluster: &mut Cluster) -> Result<String, String> {
        let Full { id, ballast, log } = *self;
        let member = &mut cluster.slot_mut(id).member;
        // It notices when it prepares the next segment of its log, and refuses writes from then on.
        let refusal = wait_until(&format!("member {id} refuses writes"), PATIENCE, || {
            if let Some(status) = member.try_exit() {
                panic!("member {id} ended with {status} because its disk is full");
            }
            // A command that changes nothing if it is taken: the history does not know of it.
            let refusal = member.client().request("DELETE", "/v1/kv/full-disk", b"").ok()?;
            (refusal.status == 507).then(|| refusal.text())
        });
        let stale = member.client().request("GET", "/v1/kv/full-disk?consistency=stale", b"");
        let stale = stale.map_err(|e| format!("a read at member {id}, whose disk is full: {e}"))?;
        if stale.status != 404 {
            return Err(format!(
                "a read at member {id}, whose disk is full, was answered with {}",
                stale.status
            ));
        }
        if !member.log()[log..].contains("disk full") {
            return Err(format!("member {id} refuses writes and its log does not say why"));
        }
        std::fs::remove_file(&ballast).map_err(|e| format!("{}: {e}", ballast.display()))?;
        wait_until(&format!("member {id} takes writes again"), PATIENCE, || {
            if let Some(status) = member.try_exit() {
                panic!("member {id} ended with {status} when its disk had room again");
            }
            (member.metric("kvd_disk_full") == Some(0.0)).then_some(())
        });
        Ok(format!("member {id} answered: {}", refusal.trim_end()))
    }
}
