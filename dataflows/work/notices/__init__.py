"""How is a notice about an alert worded, and how does it reach its receiver?"""
