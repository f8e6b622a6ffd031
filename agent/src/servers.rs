//! The servers of one database, and which of them is asked.

use reqwest::Url;
use tokio::sync::watch;

use crate::backoff;

/// The servers of one database. One is asked as long as it answers, then the next; where one
/// begins is a matter of chance, so that the servers share the load.
#[derive(Debug)]
pub struct Servers {
    urls: Vec<Url>,
    current: watch::Sender<usize>,
}

/// What is no server's address.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// This is none.
    #[error("`{0}` is no server's address; write it as http://127.0.0.1:3277")]
    Unusable(String),
    /// There is not one.
    #[error("no server's address is given; write it as http://127.0.0.1:3277")]
    Missing,
}

impl Servers {
    /// The servers at these addresses, of which any is asked first.
    ///
    /// # Errors
    /// When one is no address, or there are none.
    pub fn starting_anywhere(addresses: &[String]) -> Result<Self, AddressError> {
        Self::new(addresses, backoff::random())
    }

    /// The servers at these addresses. `random` is any number drawn evenly.
    ///
    /// # Errors
    /// When one is no address, or there are none.
    pub fn new(addresses: &[String], random: u64) -> Result<Self, AddressError> {
        let mut urls: Vec<Url> = Vec::new();
        for address in addresses {
            let url = parse_url(address).ok_or_else(|| AddressError::Unusable(address.clone()))?;
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        let n = u64::try_from(urls.len()).unwrap_or(u64::MAX);
        let start = random.checked_rem(n).ok_or(AddressError::Missing)?;
        let current = watch::Sender::new(usize::try_from(start).unwrap_or(0));
        Ok(Self { urls, current })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.urls.len()
    }

    /// Which is asked now.
    pub fn current(&self) -> usize {
        *self.current.borrow()
    }

    /// The address of one, which ends with a slash.
    pub fn url(&self, server: usize) -> &Url {
        &self.urls[server % self.urls.len()]
    }

    /// The address of one as people write it: without a slash at its end.
    pub fn name(&self, server: usize) -> &str {
        self.url(server).as_str().trim_end_matches('/')
    }

    /// All addresses, as people write them.
    pub fn names(&self) -> String {
        (0..self.count()).map(|server| self.name(server)).collect::<Vec<_>>().join(", ")
    }

    /// Asks the next one from now on, if it is still this one that is asked. Says whether there is
    /// another.
    pub fn leave(&self, server: usize) -> bool {
        self.current.send_if_modified(|current| {
            let goes_on = *current == server && self.urls.len() > 1;
            if goes_on {
                *current = (server + 1) % self.urls.len();
            }
            goes_on
        });
        self.urls.len() > 1
    }

    /// Waits until another than this one is asked.
    pub async fn left(&self, server: usize) {
        let mut current = self.current.subscribe();
        // It fails only when the sender is gone, which is borrowed here.
        current.wait_for(|current| *current != server).await.ok();
    }
}

/// The address of a server, with a slash at its end; `None`: this is none.
pub fn parse_url(address: &str) -> Option<Url> {
    let mut url: Url = address.trim().parse().ok()?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return None;
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Some(url)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn servers(addresses: &[&str], random: u64) -> Result<Servers, AddressError> {
        let addresses: Vec<String> = addresses.iter().map(|text| (*text).to_owned()).collect();
        Servers::new(&addresses, random)
    }

    #[test]
    fn one_is_asked_until_it_is_left_and_then_the_next() {
        let servers =
            servers(&["http://a", "http://b/farrow", "http://c", "http://a/"], 1).unwrap();
        assert_eq!((servers.count(), servers.current()), (3, 1));
        assert!(servers.leave(1));
        assert_eq!(servers.current(), 2);
        // Who learns of it later leaves the one that failed, not the one after it.
        assert!(servers.leave(1));
        assert_eq!(servers.current(), 2);
        servers.leave(2);
        assert_eq!(servers.url(servers.current()).as_str(), "http://a/");
        assert_eq!(servers.names(), "http://a, http://b/farrow, http://c");
    }

    #[test]
    fn whoever_waits_for_an_answer_hears_that_its_server_was_left() {
        let servers = servers(&["http://a", "http://b"], 0).unwrap();
        let mut left = Box::pin(servers.left(0));
        assert!(left.as_mut().now_or_never().is_none());
        servers.leave(0);
        assert!(left.now_or_never().is_some() && servers.left(0).now_or_never().is_some());
        assert!(servers.left(1).now_or_never().is_none());
    }

    #[test]
    fn one_alone_is_never_left() {
        let servers = servers(&["http://a"], u64::MAX).unwrap();
        assert!(!servers.leave(0));
        assert_eq!(servers.current(), 0);
        assert!(servers.left(0).now_or_never().is_none());
    }

    #[test]
    fn each_is_begun_with_as_often() {
        let starts = |random| servers(&["http://a", "http://b"], random).unwrap().current();
        assert_eq!([0, 1, 2, 3].map(starts), [0, 1, 0, 1]);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for address in ["", "host:3277", "ftp://host", "http://"] {
            let refusal = servers(&["http://a", address], 0).unwrap_err().to_string();
            assert!(refusal.contains("http://127.0.0.1:3277"), "{refusal}");
        }
        assert!(matches!(servers(&[], 0), Err(AddressError::Missing)));
    }
}
