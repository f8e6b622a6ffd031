//! Blobs are there whole or not at all, once, and inside their folder.

use futures::stream;

use super::*;

fn parts(texts: &[&'static str]) -> impl Stream<Item = Result<Bytes, String>> + use<> {
    let parts: Vec<_> = texts.iter().map(|text| Ok(Bytes::from(*text))).collect();
    stream::iter(parts)
}

fn files(folder: &Path) -> usize {
    let folders = std::fs::read_dir(folder).unwrap().map(|folder| folder.unwrap().path());
    let inside = |folder: PathBuf| std::fs::read_dir(folder).unwrap().count();
    folders.filter(|folder| !folder.ends_with("locks")).map(inside).sum()
}

#[tokio::test]
async fn what_was_put_is_got_and_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path()).unwrap();
    let digest = blobs.put(Bytes::from_static(b"farrow")).await.unwrap();
    assert_eq!(blobs.put(Bytes::from_static(b"farrow")).await.unwrap(), digest);
    assert_eq!(blobs.get(&digest).await.unwrap(), "farrow");
    assert_eq!(blobs.size(&digest).await.unwrap(), Some(6));
    let other = format!("sha256:{}", hex_digest(b"other"));
    assert_eq!(blobs.size(&other).await.unwrap(), None);
}

#[tokio::test]
async fn a_digest_cannot_leave_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path()).unwrap();
    let outside = format!("sha256:../{}", "a".repeat(61));
    assert_eq!(blobs.get(&outside).await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn an_upload_is_stored_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path()).unwrap();
    let digest = format!("sha256:{}", hex_digest(b"farrow"));

    let other = blobs.upload(&digest, parts(&["far", "ro"]), 9).await;
    assert!(matches!(other, Err(UploadError::Mismatch(found)) if found == hex_digest(b"farro")));
    let large = blobs.upload(&digest, parts(&["far", "row"]), 5).await;
    assert!(matches!(large, Err(UploadError::TooLarge(5))));
    let broken = parts(&["farrow"]).chain(stream::iter([Err("gone".to_owned())]));
    let broken = blobs.upload(&digest, broken, 9).await;
    assert!(matches!(broken, Err(UploadError::Interrupted(why)) if why == "gone"));
    assert_eq!((blobs.size(&digest).await.unwrap(), files(folder.path())), (None, 0));

    for is_new in [true, false] {
        let stored = blobs.upload(&digest, parts(&["far", "row"]), 6).await.unwrap();
        assert_eq!(stored, Uploaded { size: 6, is_new });
    }
    assert_eq!(blobs.get(&digest).await.unwrap(), "farrow");
}

#[tokio::test]
async fn what_has_no_digest_yet_is_stored_whole_or_not_at_all_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path()).unwrap();
    let broken = parts(&["farrow"]).chain(stream::iter([Err("gone".to_owned())]));
    let broken = blobs.store(broken).await;
    assert!(matches!(broken, Err(UploadError::Interrupted(why)) if why == "gone"));
    assert_eq!(files(folder.path()), 0);
    for texts in [["far", "row"], ["", "farrow"]] {
        let digest = blobs.store(parts(&texts)).await.unwrap();
        assert_eq!(digest, format!("sha256:{}", hex_digest(b"farrow")));
        assert_eq!(blobs.get(&digest).await.unwrap(), "farrow");
        assert_eq!(files(folder.path()), 1);
    }
}

#[tokio::test]
async fn a_large_blob_is_read_in_parts_and_whole() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path()).unwrap();
    for size in [0, 1, 256 << 10, (1 << 20) + 1] {
        let data: Vec<u8> = (0..size).map(|n: u32| (n % 251) as u8).collect();
        let digest = blobs.put(data.clone().into()).await.unwrap();
        let opened = blobs.open_blob(&digest).await.unwrap();
        assert_eq!(opened.size, u64::from(size));
        let parts: Vec<Bytes> = opened.parts.try_collect().await.unwrap();
        assert!(parts.concat() == data, "{size}");
    }
}

#[tokio::test]
async fn what_an_upload_left_behind_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path()).unwrap();
    let digest = blobs.put(Bytes::from_static(b"farrow")).await.unwrap();
    std::fs::write(folder.path().join("incoming").join("half"), "far").unwrap();
    assert_eq!(files(folder.path()), 2);
    Folder::at(folder.path()).sweep().unwrap();
    assert_eq!(files(folder.path()), 1);
    assert_eq!(blobs.size(&digest).await.unwrap(), Some(6));
}
