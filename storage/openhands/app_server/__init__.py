"""The drop-in for the app server of OpenHands 1.7 and later, where settings and secrets are what is left to be stored.

Modules here subclass OpenHands' own classes, so importing them needs OpenHands; nothing else in the library does.
"""
