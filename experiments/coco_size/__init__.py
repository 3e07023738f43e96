"""A rehearsal of training on COCO, at its true size, with copies of a few photographs."""
