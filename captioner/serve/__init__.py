"""The service: captions, scores and translations over HTTP."""
