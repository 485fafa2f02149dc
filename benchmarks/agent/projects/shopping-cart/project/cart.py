"""A shopping cart with percentage discounts."""


class Cart:
    def __init__(self):
        self.lines = []

    def add(self, name, price, quantity=1):
        if quantity < 1:
            raise ValueError("quantity must be at least 1")
        self.lines.append((name, price, quantity))

    def subtotal(self):
        return sum(price * quantity for _, price, quantity in self.lines)

    def total(self, discount_percent=0):
        """The price to pay after the discount, rounded to cents."""
        subtotal = self.subtotal()
        discount = subtotal * discount_percent / 100
        return round(subtotal + discount, 2)

    def is_empty(self):
        return not self.lines
