//! A network between two members that can be cut and mended.

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Debug)]
pub struct Proxy {
    pub url: String,
    cut: watch::Sender<bool>,
}

impl Proxy {
    /// Forwards to `target` (`http://host:port`).
    pub async fn to(target: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let target = target.strip_prefix("http://").unwrap().to_owned();
        let (cut, state) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(forward(socket, target.clone(), state.clone()));
            }
        });
        Proxy { url, cut }
    }

    /// Breaks every connection, and each new one.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}

async fn forward(mut socket: TcpStream, target: String, mut cut: watch::Receiver<bool>) {
    if *cut.borrow() {
        return;
    }
    let Ok(mut other) = TcpStream::connect(target).await else { return };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut socket, &mut other) => {}
        _ = cut.wait_for(|cut| *cut) => {}
    }
}
