-- Several servers on one database.

-- When the draft was begun: one that is old was left by a server that is gone.
alter table drafts add column opened_at bigint not null default 0;
