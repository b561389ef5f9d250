"""The small real suite that ships; see README.md here for what it is and how it was made."""
