//! Reads of keys that are named.

use std::io;

use bytes::Bytes;
use kvd_kvstore::command::Response;
use kvd_kvstore::service::DEFAULT_TIMEOUT;
use kvd_kvstore::{Compare, Door, Error, Operation, Target};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::writes::{SetOptions, when};
use crate::connection::Session;
use crate::errors;
use crate::parse::Request;
use crate::table::Id;

impl<D: Door, T: AsyncWrite + Unpin + Send> Session<D, T> {
    pub(crate) async fn read(&mut self, id: Id, request: &Request<'_>) -> io::Result<()> {
        let limits = self.shared.door.limits();
        let checked = request.iter().skip(1).try_for_each(|key| limits.check_key(key));
        let current = match checked {
            Ok(()) => self.become_current().await,
            Err(error) => Err(error),
        };
        if let Err(error) = current {
            self.link.replies.error(&errors::words(&error));
            return Ok(());
        }
        match id {
            Id::Mget => return self.mget(request).await,
            id => self.look_up(id, request),
        }
        Ok(())
    }

    /// What is answered under one look at the store.
    fn look_up(&mut self, id: Id, request: &Request<'_>) {
        let store = self.shared.door.local();
        let record = store.get(request.get(1));
        let replies = &mut self.link.replies;
        match id {
            Id::Strlen => replies.count(record.map_or(0, |record| record.value.len())),
            Id::Exists => {
                replies.count(request.iter().skip(1).filter(|key| store.get(key).is_some()).count())
            }
            Id::Type => replies.simple(if record.is_some() { "string" } else { "none" }),
            _ => replies.bulk_or_null(record.map(|record| &record.value[..])),
        }
    }

    async fn mget(&mut self, request: &Request<'_>) -> io::Result<()> {
        // All values as of one moment. They are held, not copied, until they are sent one after the other.
        let values: Vec<Option<Bytes>> = {
            let store = self.shared.door.local();
            request.iter().skip(1).map(|key| store.get(key).map(|record| record.value.clone())).collect()
        };
        self.link.replies.array(values.len());
        for value in values {
            self.link.replies.bulk_or_null(value.as_deref());
            self.link.relieve().await?;
        }
        Ok(())
    }

    /// SET with GET. The old value is read here, and the write is done on the condition that it is still there: so no value
    /// has to travel back from where the log is applied. If another write came between, it is tried again.
    pub(crate) async fn swap(&mut self, request: &Request<'_>) {
        match self.try_swap(request).await {
            Ok(old) => self.link.replies.bulk_or_null(old.as_deref()),
            Err(words) => self.link.replies.error(&words),
        }
    }

    async fn try_swap(&mut self, request: &Request<'_>) -> Result<Option<Bytes>, String> {
        let options = SetOptions::read(request)?;
        let (key, value) = (request.keep(1), request.keep(2));
        let deadline = Instant::now() + DEFAULT_TIMEOUT;
        let of_store = |error: Error| errors::words(&error);
        loop {
            let (old, mod_revision) = {
                let store = self.shared.door.local();
                let record = store.get(&key);
                (record.map(|record| record.value.clone()), record.map_or(0, |record| record.mod_revision))
            };
            if options.exists.is_some_and(|exists| exists != old.is_some()) {
                // Nothing is written, so nothing proves that this was the newest value.
                if self.is_current() {
                    return Ok(old);
                }
                self.become_sure().await.map_err(of_store)?;
                continue;
            }
            let compare = Compare { key: key.clone(), target: Target::ModRevision(mod_revision) };
            let put = Operation::Put { key: key.clone(), value: value.clone() };
            match self.write(when(compare, put), request.bytes()).await.map_err(of_store)? {
                Response::Txn(done) if done.succeeded => return Ok(old),
                Response::Txn(_) if Instant::now() < deadline => {}
                Response::Txn(_) => {
                    return Err("TRYAGAIN others write this key all the time; nothing was done".into());
                }
                _ => return Err(of_store(Error::BadResponse)),
            }
        }
    }
}
