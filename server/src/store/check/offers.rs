//! What live agents offer together, recounted.

use super::super::db::Tx;
use super::super::{StoreError, offers};
use super::{Check, Kind};

impl Check<'_> {
    pub(super) async fn offers(&mut self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let (written, recounted) = (offers::written(tx).await?, offers::recounted(tx).await?);
        // In a database of an earlier version nothing was counted before a server starts on it.
        if !written.is_empty() && written != recounted {
            let text = format!(
                "live agents offer slots as {recounted:?}, and written down is {written:?}; a server \
                 counts them anew when it starts"
            );
            self.report.add(Kind::Offers, None, text);
        }
        Ok(())
    }
}
