"""The drop-in for OpenHands releases that choose their stores by class: 0.62 to 1.6.

Modules here subclass OpenHands' own classes, so importing them needs OpenHands; nothing else in the library does.
"""
