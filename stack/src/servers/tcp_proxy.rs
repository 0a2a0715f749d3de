//! A TCP proxy between Waybill and a server, whose connections can be cut.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// A TCP proxy on loopback. Dropping it closes all connections.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    end: CancellationToken,
    /// Cancels the connections that are open now.
    open: Arc<Mutex<CancellationToken>>,
}

impl TcpProxy {
    /// Starts a proxy to a port on loopback.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn to(port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let end = CancellationToken::new();
        let open = Arc::new(Mutex::new(end.child_token()));
        let link = Self { address: listener.local_addr()?, end: end.clone(), open: open.clone() };
        tokio::spawn(async move {
            let accept = async {
                while let Ok((client, _)) = listener.accept().await {
                    let cut = open.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    tokio::spawn(cut.run_until_cancelled_owned(forward(client, port)));
                }
            };
            end.run_until_cancelled(accept).await;
        });
        Ok(link)
    }

    /// The address that Waybill connects to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the open connections; the proxy still accepts new ones.
    pub fn cut(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *open, self.end.child_token()).cancel();
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

async fn forward(mut client: TcpStream, port: u16) {
    // A server that is down closes the connection, as it would without the proxy.
    if let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn cut_drops_open_connections_and_accepts_new() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let link = TcpProxy::to(server.local_addr().unwrap().port()).await.unwrap();
        let mut client = TcpStream::connect(link.address()).await.unwrap();
        let (mut behind, _) = server.accept().await.unwrap();
        client.write_all(b"to").await.unwrap();
        let mut read = [0; 2];
        behind.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"to");
        link.cut();
        assert_eq!(client.read(&mut read).await.unwrap_or(0), 0, "the client's side is closed");
        assert_eq!(behind.read(&mut read).await.unwrap_or(0), 0, "the server's side is closed");
        let _again = TcpStream::connect(link.address()).await.unwrap();
        server.accept().await.unwrap();
    }
}
