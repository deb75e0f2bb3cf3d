//! What `/metrics` shows: the series of every layer, and the store's size.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use kvd_kvstore::Shared;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

type UGauge = Gauge<u64, AtomicU64>;

/// A function that encodes the registry, with the store's figures as of the call.
pub fn encoder(mut registry: Registry, store: Shared) -> Arc<dyn Fn() -> String + Send + Sync> {
    let (keys, revision, bytes) = (UGauge::default(), UGauge::default(), UGauge::default());
    registry.register("etcd_debugging_mvcc_keys_total", "Keys in the store", keys.clone());
    registry.register("etcd_debugging_mvcc_current_revision", "The store's revision", revision.clone());
    registry.register_with_unit("kvd_store_payload", "Bytes of keys and values", Unit::Bytes, bytes.clone());
    Arc::new(move || {
        let store = store.read();
        keys.set(store.len() as u64);
        revision.set(store.revision());
        bytes.set(store.payload_bytes());
        drop(store);
        let mut text = String::new();
        match encode(&mut text, &registry) {
            Ok(()) => text,
            // Writing to a string fails only if a metric refuses to describe itself.
            Err(error) => format!("# {error}\n# EOF\n"),
        }
    })
}
