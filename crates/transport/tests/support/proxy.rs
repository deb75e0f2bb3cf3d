//! A network between two members, with the weather that a test wants.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to connections. "Down" is towards whoever dialled.
#[derive(Debug, Clone, Default)]
pub struct Weather {
    /// Connections break, and new ones too.
    pub cut: bool,
    /// Bytes towards the target vanish, and the connection stays.
    pub mute_up: bool,
    /// Bytes towards the dialler vanish, and the connection stays.
    pub mute_down: bool,
    /// What is read is written so much later.
    pub delay: Duration,
    /// A connection breaks after so many bytes down.
    pub truncate_down: Option<usize>,
    /// A connection takes this many bytes down every millisecond at most.
    pub slow_down: Option<usize>,
}

#[derive(Debug)]
pub struct Proxy {
    pub url: String,
    weather: watch::Sender<Weather>,
    truncated: Arc<AtomicUsize>,
    dials: Arc<AtomicUsize>,
}

impl Proxy {
    /// Forwards to `target` (`http://host:port`).
    pub async fn to(target: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let target = target.strip_prefix("http://").unwrap().to_owned();
        let (weather, state) = watch::channel(Weather::default());
        let (truncated, dials) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, dialled) = (truncated.clone(), dials.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                dialled.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(forward(socket, target.clone(), state.clone(), count.clone()));
            }
        });
        Proxy { url, weather, truncated, dials }
    }

    pub fn set(&self, change: impl FnOnce(&mut Weather)) {
        self.weather.send_modify(change);
    }

    /// Breaks every connection, and each new one.
    pub fn cut(&self) {
        self.set(|weather| weather.cut = true);
    }

    /// Sunshine.
    pub fn mend(&self) {
        self.weather.send_replace(Weather::default());
    }

    /// Connections that broke within their bytes.
    pub fn truncated(&self) -> usize {
        self.truncated.load(Ordering::SeqCst)
    }

    /// Connections that were taken.
    pub fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }
}

async fn forward(
    socket: TcpStream,
    target: String,
    mut weather: watch::Receiver<Weather>,
    truncated: Arc<AtomicUsize>,
) {
    if weather.borrow().cut {
        return;
    }
    let Ok(other) = TcpStream::connect(target).await else { return };
    let _ = (socket.set_nodelay(true), other.set_nodelay(true));
    let ((from_dialler, to_dialler), (from_target, to_target)) = (socket.into_split(), other.into_split());
    let up = pump(from_dialler, to_target, weather.clone(), None);
    let down = pump(from_target, to_dialler, weather.clone(), Some(truncated));
    tokio::select! {
        () = up => {}
        () = down => {}
        _ = weather.wait_for(|weather| weather.cut) => {}
    }
}

/// Carries one direction; down, if there is a counter of truncated connections.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    weather: watch::Receiver<Weather>,
    down: Option<Arc<AtomicUsize>>,
) {
    let mut buffer = vec![0; 64 << 10];
    let mut carried = 0;
    loop {
        let slow = weather.borrow().slow_down.filter(|_| down.is_some());
        let most = slow.unwrap_or(buffer.len()).min(buffer.len());
        let Ok(n) = from.read(&mut buffer[..most]).await else { return };
        if n == 0 {
            return;
        }
        let now = weather.borrow().clone();
        tokio::time::sleep(now.delay.max(Duration::from_millis(slow.is_some().into()))).await;
        if if down.is_some() { now.mute_down } else { now.mute_up } {
            continue;
        }
        let limit = now.truncate_down.filter(|_| down.is_some()).unwrap_or(usize::MAX);
        let n = n.min(limit - carried.min(limit));
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
        carried += n;
        if carried == limit {
            if let Some(truncated) = down {
                truncated.fetch_add(1, Ordering::SeqCst);
            }
            return;
        }
    }
}
