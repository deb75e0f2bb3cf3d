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
        // It notices at the next file it needs: a segment of the log, or a snapshot.
        let ended = wait_until(&format!("member {id} meets the full disk"), PATIENCE, || {
            let ended = member.try_exit();
            let said = member.log().split_off(log).contains("os error 28");
            (said || ended.is_some()).then_some(ended)
        });
        let reason = member.log().split_off(log);
        let reason =
            reason.lines().rev().find(|line| line.contains("os error 28")).unwrap_or_default().to_owned();
        std::fs::remove_file(&ballast).map_err(|e| format!("{}: {e}", ballast.display()))?;
        if ended.is_some() || member.try_exit().is_some() {
            let status = member.wait_exit();
            if status.success() || reason.is_empty() {
                return Err(format!("member {id} ended with {status} on a full disk and said: {reason:?}"));
            }
            cluster.restart(id);
        }
        Ok(reason)
    }
}
