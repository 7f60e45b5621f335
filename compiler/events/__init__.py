"""Events of cameras: still images as a simulated camera sees them, recordings of real ones, address events and frames."""

from d2e.compiler.events.address import events_of, frames_of
from d2e.compiler.events.camera import Camera
from d2e.compiler.events.recordings import Recordings, load, save

__all__ = ["Camera", "Recordings", "events_of", "frames_of", "load", "save"]
