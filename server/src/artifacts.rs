//! Artifacts as agents report them: which of them are taken.

use protocol::agent::{Condition, Note};
use protocol::artifact::{MOST_ARTIFACTS, is_name};

use crate::blobs::{Blobs, parse_digest};
use crate::error::ApiError;

/// Checks the artifacts of a note, which is `field`. Their blobs are young from now on, so that they
/// are there when the note is written down. What has none any more is left out, with a remark: an
/// outcome may have waited on an agent's disk for days, and is worth more than its files.
///
/// # Errors
/// What no agent says.
pub async fn take(blobs: &Blobs, note: &mut Note, field: &str) -> Result<(), ApiError> {
    if note.artifacts.len() > MOST_ARTIFACTS {
        let message = format!("are {}, must be {MOST_ARTIFACTS} or fewer", note.artifacts.len());
        return Err(ApiError::field(field, message));
    }
    let mut taken = Vec::with_capacity(note.artifacts.len());
    for mut artifact in std::mem::take(&mut note.artifacts) {
        if !is_name(&artifact.name) {
            let message = format!("hold {:?}, which is no name", artifact.name);
            return Err(ApiError::field(field, message));
        }
        if parse_digest(&artifact.digest).is_none() {
            let message = format!("hold {:?}, which is no digest", artifact.digest);
            return Err(ApiError::field(field, message));
        }
        match blobs.find(&artifact.digest).await? {
            Some(bytes) => {
                artifact.bytes = bytes;
                taken.push(artifact);
            }
            None => note.conditions.push(lost(&artifact.name, &artifact.digest)),
        }
    }
    note.artifacts = taken;
    Ok(())
}

fn lost(name: &str, digest: &str) -> Condition {
    Condition {
        kind: "ArtifactsLeftOut".to_owned(),
        message: format!(
            "no artifacts: `{name}` (its blob {digest} was gone when the outcome was reported)"
        ),
        call: None,
    }
}

#[cfg(test)]
mod tests {
    use protocol::artifact::Artifact;

    use super::*;

    fn note(artifacts: &[(&str, &str)]) -> Note {
        let artifact = |(name, digest): &(&str, &str)| Artifact {
            name: (*name).to_owned(),
            digest: (*digest).to_owned(),
            bytes: 99,
        };
        Note { artifacts: artifacts.iter().map(artifact).collect(), ..Note::default() }
    }

    #[tokio::test]
    async fn artifacts_are_taken_if_their_blobs_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let digest = blobs.put("abc".into()).await.unwrap();
        let gone = format!("sha256:{}", "0".repeat(64));
        let mut two = note(&[("a", &gone), ("b/c", &digest)]);
        take(&blobs, &mut two, "artifacts").await.unwrap();
        assert_eq!(two.artifacts, [Artifact { name: "b/c".into(), digest, bytes: 3 }]);
        assert!(two.conditions[0].message.starts_with("no artifacts: `a` (its blob"));
    }

    #[tokio::test]
    async fn what_no_agent_says_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let digest = blobs.put("abc".into()).await.unwrap();
        let many = vec![("a", digest.as_str()); MOST_ARTIFACTS + 1];
        for wrong in [&[("../a", &*digest)], &[("/a", &*digest)], &[("a", "abc")], &many[..]] {
            assert!(take(&blobs, &mut note(wrong), "artifacts").await.is_err(), "{:?}", wrong[0]);
        }
    }
}
