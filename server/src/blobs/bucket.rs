//! A bucket of S3-compatible storage, or what is in it below a prefix.
//!
//! Which objects there are, and what they are for, is for the database to say ([`super::objects`]); here
//! is how one is sent, read, removed, and let be read by others. Keys, region and endpoint come from
//! the variables that all programs for S3 read (`AWS_…`), or from the role of the instance.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{
    BackoffConfig, ClientOptions, Error, ObjectStore, ObjectStoreExt as _, PutMode, PutPayload,
    RetryConfig,
};

use super::{BucketName, Opened};

/// How long one request is tried again that fails in a way that may pass.
const PERSISTENCE: Duration = Duration::from_secs(30);

/// How long a connection may stand still, also while a part of an upload is sent.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// How long the bucket may take to answer at the start.
const FIRST_ANSWER: Duration = Duration::from_secs(20);

/// For how long an address that is given to others is good. It is used at once, and only the beginning
/// of an answer must come within it.
const GOOD_FOR: Duration = Duration::from_secs(120);

/// An object that is written and removed at the start, to see whether that can be done.
const PROBE: &str = "farrow-probe";

/// Objects, one request or many at a time.
pub trait Remote: ObjectStore + MultipartStore {}

impl<T: ObjectStore + MultipartStore> Remote for T {}

/// A bucket. Cheap to clone.
#[derive(Clone)]
pub struct Bucket {
    name: BucketName,
    remote: Arc<dyn Remote>,
    signer: Option<Arc<dyn Signer>>,
}

/// An address that lets whoever knows it read one object, for a while. It is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedUrl(String);

impl SignedUrl {
    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SignedUrl(…)")
    }
}

/// Which objects are in a bucket, and their sizes.
#[derive(Debug, Default)]
pub struct Listing(HashMap<u128, u64>);

impl Listing {
    /// The bytes of the object `name`; `None`: there is none.
    pub fn size(&self, name: &str) -> Option<u64> {
        self.0.get(&generation(name)?).copied()
    }
}

/// Why a bucket cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the bucket {bucket} cannot be {what}: {why}")]
pub struct BucketError {
    /// Which.
    pub bucket: BucketName,
    /// What was tried.
    pub what: &'static str,
    /// Why not, and what to do.
    pub why: String,
}

impl Bucket {
    /// The bucket `name`, as the environment says how to come to it. Nothing is asked of it yet.
    ///
    /// # Errors
    /// When what the environment says makes no sense.
    pub fn from_env(name: BucketName) -> Result<Self, BucketError> {
        let mut builder = AmazonS3Builder::from_env();
        let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint]
            .iter()
            .find_map(|key| builder.get_config_value(key));
        // Whoever gives such an address means it.
        let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
        let mut options = ClientOptions::new()
            .with_timeout_disabled()
            .with_read_timeout(STALL_LIMIT)
            .with_allow_http(is_plain);
        if let Ok(agent) = concat!("farrow-server/", env!("CARGO_PKG_VERSION")).parse() {
            options = options.with_user_agent(agent);
        }
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(5),
                base: 2.0,
            },
            max_retries: 8,
            retry_timeout: PERSISTENCE,
        };
        builder =
            builder.with_bucket_name(&name.bucket).with_client_options(options).with_retry(retry);
        match builder.build() {
            Ok(s3) => {
                let s3 = Arc::new(s3);
                let signer: Arc<dyn Signer> = s3.clone();
                Ok(Self { name, remote: s3, signer: Some(signer) })
            }
            Err(error) => Err(BucketError { bucket: name, what: "used", why: explain(&error) }),
        }
    }

    /// Objects in memory, or wherever else.
    #[cfg(test)]
    pub fn of(remote: Arc<dyn Remote>) -> Self {
        let name = BucketName { bucket: "memory".to_owned(), prefix: "some/where".to_owned() };
        Self { name, remote, signer: None }
    }

    /// Its name.
    pub fn name(&self) -> &BucketName {
        &self.name
    }

    /// Sees whether objects can be written, read and removed.
    ///
    /// # Errors
    /// Which of these cannot be done, why, and what would help.
    pub async fn probe(&self) -> Result<(), BucketError> {
        // Servers that start together must not remove each other's.
        let path = self.path(&format!("{PROBE}-{}", protocol::LeaseId::new()));
        let probing = async {
            let payload = PutPayload::from_static(b"farrow\n");
            self.failing("written", self.remote.put(&path, payload).await)?;
            let read = self.remote.get(&path).await;
            self.failing("read", read)?;
            self.failing("cleared", self.remote.delete(&path).await)
        };
        tokio::time::timeout(FIRST_ANSWER, probing).await.unwrap_or_else(|_| {
            let why = format!(
                "it did not answer within {} s: is AWS_ENDPOINT_URL right, or AWS_REGION, and may this \
                 machine reach it? Without AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY the instance \
                 is asked for its role, which only a machine at a cloud provider has",
                FIRST_ANSWER.as_secs()
            );
            Err(self.error("reached", why))
        })
    }

    /// Reads a small object; `None`: there is none.
    ///
    /// # Errors
    /// When the bucket cannot be read.
    pub async fn read_text(&self, name: &str) -> Result<Option<String>, BucketError> {
        let read = async { self.remote.get(&self.path(name)).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned())),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(self.error("read", explain(&error))),
        }
    }

    /// Writes a small object, unless there is one of this name. Says whether there was not.
    ///
    /// # Errors
    /// When the bucket cannot be written.
    pub async fn write_text_once(&self, name: &str, text: &str) -> Result<bool, BucketError> {
        let payload = PutPayload::from(text.as_bytes().to_vec());
        match self.remote.put_opts(&self.path(name), payload, PutMode::Create.into()).await {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.error("written", explain(&error))),
        }
    }

    /// Removes a small object.
    ///
    /// # Errors
    /// When the bucket cannot be written.
    pub async fn remove_text(&self, name: &str) -> Result<(), BucketError> {
        self.failing("cleared", self.remote.delete(&self.path(name)).await)
    }

    /// The name of a new object for the blob of these hex digits; no other has it, and none will.
    pub fn new_name(hex: &str) -> String {
        format!("{hex}.{}", protocol::LeaseId::new())
    }

    /// Sends an object whole.
    pub async fn put(&self, name: &str, data: PutPayload) -> io::Result<()> {
        let sent = self.remote.put(&self.path_of_blob(name), data).await;
        sent.map(drop).map_err(|error| self.io("written", &error))
    }

    /// Begins an object that is sent in parts; nobody sees it before it is complete. Gives the id of
    /// the upload.
    pub async fn begin(&self, name: &str) -> io::Result<String> {
        let begun = self.remote.create_multipart(&self.path_of_blob(name)).await;
        begun.map_err(|error| self.io("written", &error))
    }

    /// Sends the part of this number, from 0 on.
    pub async fn put_part(
        &self,
        name: &str,
        upload: &str,
        number: usize,
        data: PutPayload,
    ) -> io::Result<PartId> {
        let path = self.path_of_blob(name);
        let sent = self.remote.put_part(&path, &upload.to_owned(), number, data).await;
        sent.map_err(|error| self.io("written", &error))
    }

    /// Makes an object of the parts that were sent.
    pub async fn complete(&self, name: &str, upload: &str, parts: Vec<PartId>) -> io::Result<()> {
        let path = self.path_of_blob(name);
        let completed = self.remote.complete_multipart(&path, &upload.to_owned(), parts).await;
        completed.map(drop).map_err(|error| self.io("written", &error))
    }

    /// Forgets the parts of an upload, if they are there.
    pub async fn abort(&self, name: &str, upload: &str) -> io::Result<()> {
        match self.remote.abort_multipart(&self.path_of_blob(name), &upload.to_owned()).await {
            Ok(()) => Ok(()),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(self.io("cleared", &error)),
        }
    }

    /// Removes objects, whether they are there or not.
    pub async fn remove(&self, names: &[String]) -> io::Result<()> {
        let paths: Vec<_> = names.iter().map(|name| Ok(self.path_of_blob(name))).collect();
        let removing = self.remote.delete_stream(futures::stream::iter(paths).boxed());
        let mut removing = std::pin::pin!(removing);
        while let Some(removed) = removing.next().await {
            match removed {
                Ok(_) => {}
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(self.io("cleared", &error)),
            }
        }
        Ok(())
    }

    /// Opens an object.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn open(&self, name: &str) -> io::Result<Opened> {
        let got = self.remote.get(&self.path_of_blob(name)).await;
        let got = got.map_err(|error| self.io("read", &error))?;
        let (size, bucket) = (got.meta.size, self.clone());
        let parts = got.into_stream().map_err(move |error| bucket.io("read", &error)).boxed();
        Ok(Opened { size, parts })
    }

    /// Reads an object whole.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn get(&self, name: &str) -> io::Result<Bytes> {
        let read = async { self.remote.get(&self.path_of_blob(name)).await?.bytes().await };
        read.await.map_err(|error| self.io("read", &error))
    }

    /// An address by which whoever knows it can read an object for a while; `None`: there are none.
    ///
    /// # Errors
    /// When there are no credentials to sign it with.
    pub async fn signed_url(&self, name: &str) -> io::Result<Option<SignedUrl>> {
        let Some(signer) = &self.signer else { return Ok(None) };
        let signed = signer.signed_url(Method::GET, &self.path_of_blob(name), GOOD_FOR).await;
        signed.map(|url| Some(SignedUrl(url.into()))).map_err(|error| self.io("read", &error))
    }

    /// Which objects of blobs there are.
    ///
    /// # Errors
    /// When the bucket cannot be read.
    pub async fn list(&self) -> Result<Listing, BucketError> {
        let prefix = Path::from(self.name.prefix.as_str());
        let prefix = (!self.name.prefix.is_empty()).then_some(&prefix);
        let mut listing = Listing::default();
        let mut objects = self.remote.list(prefix);
        while let Some(object) = objects.next().await {
            let object = object.map_err(|error| self.error("listed", explain(&error)))?;
            if let Some(generation) = object.location.filename().and_then(generation) {
                listing.0.insert(generation, object.size);
            }
        }
        Ok(listing)
    }

    /// The key of the object of a blob.
    pub fn key(&self, name: &str) -> String {
        self.path_of_blob(name).to_string()
    }

    fn path(&self, name: &str) -> Path {
        Path::from(self.name.key(name))
    }

    /// Spread as in a folder, for people who look at it.
    fn path_of_blob(&self, name: &str) -> Path {
        self.path(&format!("{}/{name}", name.get(..2).unwrap_or_default()))
    }

    fn error(&self, what: &'static str, why: String) -> BucketError {
        BucketError { bucket: self.name.clone(), what, why }
    }

    fn failing<T>(&self, what: &'static str, done: Result<T, Error>) -> Result<(), BucketError> {
        done.map(drop).map_err(|error| self.error(what, explain(&error)))
    }

    /// What is missing is not found; all else may pass, and is to be tried again.
    fn io(&self, what: &'static str, error: &Error) -> io::Error {
        let kind = match is_missing(error) {
            true => io::ErrorKind::NotFound,
            false => io::ErrorKind::NotConnected,
        };
        io::Error::new(kind, self.error(what, explain(error)))
    }
}

/// What tells the names of objects apart that hold the same blob: a UUID.
fn generation(name: &str) -> Option<u128> {
    let (_, generation) = name.rsplit_once('.')?;
    u128::from_str_radix(&generation.replace('-', ""), 16).ok()
}

/// Whether it is an object that is missing, and not the bucket.
fn is_missing(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. }) && !error.to_string().contains("NoSuchBucket")
}

/// What is wrong, in words that say what to do. Of what the storage has answered only its code and its
/// message: the rest may name keys.
fn explain(error: &Error) -> String {
    let text = error.to_string();
    let code = between(&text, "<Code>", "</Code>");
    match code {
        Some("NoSuchBucket") => {
            return "there is no such bucket: make it, or give another one with --blobs".to_owned();
        }
        Some("AccessDenied") => {
            return "access is denied: the credentials need s3:GetObject, s3:PutObject, \
                    s3:DeleteObject and s3:AbortMultipartUpload on its objects, and s3:ListBucket \
                    on the bucket"
                .to_owned();
        }
        Some(
            code @ ("InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"),
        ) => {
            return format!(
                "the credentials are not good ({code}): check AWS_ACCESS_KEY_ID, \
                 AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"
            );
        }
        Some(
            code @ ("PermanentRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException"),
        ) => {
            return format!("it is in another region ({code}): give that by AWS_REGION");
        }
        Some(code) => {
            let message = between(&text, "<Message>", "</Message>").unwrap_or_default();
            return format!("the storage answered {code}: {message}");
        }
        None => {}
    }
    if text.contains("incorrectly configured region") {
        return "it is in another region: give that by AWS_REGION".to_owned();
    }
    if text.contains("169.254.169.254") || text.contains("169.254.170.2") {
        return "there are no credentials: give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the \
                instance a role that may use it"
            .to_owned();
    }
    match error {
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            "access is denied: check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) and \
             what they may do there"
                .to_owned()
        }
        _ => format!(
            "{}: is AWS_ENDPOINT_URL right, or AWS_REGION, and may this machine reach it?",
            innermost(error)
        ),
    }
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(from)?;
    Some(rest.split_once(to)?.0)
}

/// The last cause that says something, without the address that was asked, which may be signed.
fn innermost(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(body: &str) -> Error {
        let source = format!("Server returned non-2xx status code: 403 Forbidden: {body}").into();
        Error::Generic { store: "S3", source }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_do_and_without_keys() {
        for (code, told) in [
            ("NoSuchBucket", "--blobs"),
            ("AccessDenied", "s3:PutObject"),
            ("InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
            ("AuthorizationHeaderMalformed", "AWS_REGION"),
            ("SlowDown", "SlowDown: be patient"),
        ] {
            let body = format!(
                "<Error><Code>{code}</Code><Message>be patient</Message>\
                 <AWSAccessKeyId>AKIA</AWSAccessKeyId></Error>"
            );
            let why = explain(&answered(&body));
            assert!(why.contains(told) && !why.contains("AKIA"), "{why}");
        }
    }

    #[test]
    fn a_signed_address_is_not_shown() {
        let url = SignedUrl("https://bucket/x?X-Amz-Signature=abc".to_owned());
        assert!(!format!("{url:?}").contains("abc"));
    }

    #[test]
    fn names_are_told_apart_by_what_is_behind_the_digest() {
        let (one, other) = (Bucket::new_name("ab"), Bucket::new_name("ab"));
        assert!(one.starts_with("ab.") && one != other);
        assert_ne!(generation(&one), generation(&other));
        assert!(
            generation(&one).is_some()
                && generation("farrow-probe-019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42").is_none()
        );
    }
}
