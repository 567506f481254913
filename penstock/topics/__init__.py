"""The topic log: the table of topics, the interface, its backends, and the server that stores it by default."""

from penstock.topics.log import Message, Stored, TopicLog
from penstock.topics.table import CONTROL, METRICS, TOPICS, Topic, route, topic_named

__all__ = ["CONTROL", "METRICS", "TOPICS", "Message", "Stored", "Topic", "TopicLog", "route", "topic_named"]
