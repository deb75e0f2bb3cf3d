//! What the tests share.

pub(crate) mod asked;
pub(crate) mod describe;
pub(crate) mod journal;
pub(crate) mod member;
pub(crate) mod threads;
pub(crate) mod wire;
pub(crate) mod world;

pub(crate) use asked::{Asked, LONG};
pub(crate) use journal::Journal;
pub(crate) use wire::Fate;
pub(crate) use world::{TICK, World};
