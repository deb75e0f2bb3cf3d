//! What the tests share.

pub mod asked;
pub mod describe;
pub mod journal;
pub mod member;
pub mod threads;
pub mod wire;
pub mod world;

pub use asked::{Asked, LONG};
pub use journal::Journal;
pub use wire::Fate;
pub use world::{TICK, World};
