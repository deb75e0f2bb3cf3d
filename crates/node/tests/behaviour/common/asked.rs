//! A request that was made, and its answer when there is one.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kvd_node::Error;

/// A time-out that no test reaches.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// A request in flight, for tests that look whether it has its answer instead of waiting for it.
pub(crate) struct Asked<T> {
    future: Pin<Box<dyn Future<Output = Result<T, Error>>>>,
    answer: Option<Result<T, Error>>,
}

impl<T: Clone + Debug> Asked<T> {
    pub(crate) fn new(future: impl Future<Output = Result<T, Error>> + 'static) -> Self {
        Self { future: Box::pin(future), answer: None }
    }

    /// The answer, if it is there.
    pub(crate) fn answer(&mut self) -> Option<Result<T, Error>> {
        if self.answer.is_none()
            && let Poll::Ready(answer) = self.future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        {
            self.answer = Some(answer);
        }
        self.answer.clone()
    }

    /// The answer, which must be there and good.
    #[track_caller]
    pub(crate) fn granted(&mut self) -> T {
        self.answer().expect("an answer").expect("a good one")
    }

    /// The answer, which must be there and an error.
    #[track_caller]
    pub(crate) fn error(&mut self) -> Error {
        self.answer().expect("an answer").expect_err("an error")
    }
}
