-- Blobs in a bucket of S3-compatible storage: empty while they are files of a folder.

-- Which object holds a blob, and when the blob was last put or found. The row is the blob: an object
-- without one is nobody's. Each upload makes an object of its own name, so a name never comes back.
create table objects (
    digest text primary key,
    name text not null,
    bytes bigint not null,
    found_at bigint not null
);
create index objects_found_at on objects (found_at, digest);

-- Objects that may be in the bucket and hold no blob: on their way since then, or doomed, to be removed
-- from then on.
create table loose_objects (
    name text primary key,
    -- The multipart upload that makes it, if one does.
    upload text,
    doomed boolean not null,
    since bigint not null
);
