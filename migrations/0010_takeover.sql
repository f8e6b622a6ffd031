-- Idle slots take over what a busy agent has not begun.

-- Elements of a live lease that may not have begun and may be run by another: all but one a lane, or
-- all of a lease that waits for a slot; none of a chunk that stays whole.
alter table leases add column spare bigint not null default 0;
create index leases_spare on leases (spare) where state = 'live' and spare > 0;
